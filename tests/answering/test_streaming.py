import random
from pathlib import Path

import pytest

from lmkit.answering.streaming import IncrementalText, StopFilter

TOKENIZERS = Path(__file__).parents[3] / "shared" / "tokenizers"
NAMES = ("gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased", "koelectra-wordpiece")

TEXTS = {
    "english": "Hello, world! It's a test -- isn't it? (yes)  two  spaces\n\n\tand a tab.",
    "korean": "안녕하세요? 저는 언어 모델입니다. 무엇을 도와드릴까요? 꿹쀍 뷁!",
    "jamo": "\u1112\u1161\u11ab\u1100\u1173\u11af 한글 ㅋㅋㅋ",
    "emoji": "👨‍👩‍👧‍👦 and 👍🏽 or ❤️‍🔥 with 🇰🇷🇺🇸 flags 🏴‍☠️!",
    "mixed": "Seoul서울🇰🇷 costs ₩1,000원 — café naïve Ω≈ç√ 日本語 عربى e\u0301",
    "replacement": "a\ufffd\ufffdb \ufffd안\ufffd",
}


class Bytes:
    """A byte-level tokenizer: id b is the byte b; from 256 on, control tokens, which are left out.

    Args:
        fallback: whether one malformed byte turns all into replacement characters, as byte
            fallback does with a run of bytes; byte-level BPE leaves the rest as it is.
    """

    def __init__(self, *, fallback=False):
        self.fallback = fallback
        self.longest = 0
        self.decoded = 0

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        self.longest = max(self.longest, len(ids))
        self.decoded += len(ids)
        content = bytes(token for token in ids if token < 256)
        if not self.fallback:
            return content.decode(errors="replace")
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(content)


class Words:
    """Word pieces as SentencePiece has them: the first one loses its leading space."""

    pieces = ("▁", "▁a", "b", "▁the", "s", "</s>", ".")

    def decode(self, ids):
        text = "".join(self.pieces[token] for token in ids if token != 5).replace("▁", " ")
        return text.removeprefix(" ")


def stream(decode, ids, **options):
    """Return the pieces and the streamer, after it has finished."""
    text = IncrementalText(decode, **options)
    pieces = [text.push(token) for token in ids]
    return [*pieces, text.finish()], text


@pytest.fixture(params=NAMES)
def tokenizer(request):
    tokenizers = pytest.importorskip("tokenizers")
    file = TOKENIZERS / request.param / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    return tokenizers.Tokenizer.from_file(str(file))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_bytes_come_out_as_the_whole_text(text):
    toy = Bytes()

    pieces, streamed = stream(toy.decode, toy.encode(text))

    assert "".join(pieces) == streamed.text == text


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"replacement"}))
def test_bytes_under_byte_fallback_come_out_as_the_whole_text(name):
    toy = Bytes(fallback=True)

    pieces, _ = stream(toy.decode, toy.encode(TEXTS[name]))

    assert "".join(pieces) == TEXTS[name]


@pytest.mark.parametrize("character", ["é", "안", "😀"])
def test_a_character_comes_out_with_its_last_byte(character):
    pieces, _ = stream(Bytes().decode, character.encode())

    assert pieces == [""] * (len(character.encode()) - 1) + [character, ""]


def test_text_before_an_unfinished_character_is_not_held_back():
    table = [b"ab\xec", b"\x95\x88!"]

    pieces, _ = stream(lambda ids: b"".join(table[i] for i in ids).decode(errors="replace"), [0, 1])

    assert pieces == ["ab", "안!", ""]


def test_a_real_replacement_character_comes_out_with_the_next_text():
    pieces, _ = stream(Bytes().decode, list("\ufffdab".encode()))

    assert pieces == ["", "", "", "\ufffda", "b", ""]


def test_a_real_replacement_character_at_the_end_comes_out_when_finishing():
    pieces, _ = stream(Bytes().decode, list("a\ufffd".encode()))

    assert pieces == ["a", "", "", "", "\ufffd"]


def test_malformed_bytes_without_end_are_shown_as_they_come():
    toy = Bytes()
    ids = [0xFF] * 500

    pieces, _ = stream(toy.decode, ids)

    assert "".join(pieces) == toy.decode(ids)
    assert max(map(len, pieces)) <= 5


def test_random_bytes_come_out_as_decoded_at_once():
    rng = random.Random(0)
    toy = Bytes()
    for _ in range(200):
        ids = [rng.choice([0x41, 0xEC, 0x95, 0x88, 0xF0, 0x9F, 0x80, 0xFF, 300]) for _ in range(60)]

        pieces, _ = stream(toy.decode, ids)

        assert "".join(pieces) == toy.decode(ids)


def test_a_malformed_run_under_byte_fallback_keeps_what_was_shown():
    toy = Bytes(fallback=True)

    pieces, _ = stream(toy.decode, [*"안".encode(), 0xEC, 0xEC])

    assert "".join(pieces) == "안" + "\ufffd" * 4


@pytest.mark.parametrize(
    "ids", [[1, 2, 5, 1], [0, 1], [5, 5, 1, 5, 0, 5, 5, 3, 5, 1], [5, 0, 0, 2, 1, 6]]
)
def test_a_space_after_a_control_token_is_kept(ids):
    pieces, _ = stream(Words().decode, ids)

    assert "".join(pieces) == Words().decode(ids)


def test_random_words_come_out_as_decoded_at_once():
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(7) for _ in range(80)]

        pieces, _ = stream(Words().decode, ids)

        assert "".join(pieces) == Words().decode(ids)


def test_only_a_few_ids_are_decoded_at_a_time():
    toy = Bytes()
    ids = toy.encode("안녕하세요, hello 👍 " * 100)

    stream(toy.decode, ids)

    assert toy.longest <= 12
    assert toy.decoded < 12 * len(ids)


@pytest.mark.parametrize(
    "ids",
    [
        [300] * 500,
        [0x41, *[300] * 500, 0x42],
        [0x41, *[300] * 40, *"안".encode(), *[300] * 40, 0x42],
        [0xEC, 0xEC] * 300,
    ],
    ids=["control-tokens", "text-and-control-tokens", "split-by-control-tokens", "never-complete"],
)
def test_the_window_stays_small_when_the_text_never_comes_to_rest(ids):
    toy = Bytes()

    pieces, _ = stream(toy.decode, ids)

    assert toy.longest <= 48
    assert "".join(pieces) == toy.decode(ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("🇰🇷", ["", "🇰🇷"]),
        ("🇰🇷🇺🇸", ["", "🇰🇷", "", "🇺🇸"]),
        ("a🇰b", ["a", "", "🇰b"]),
        ("가나", ["가", "나"]),
        ("👨\u200d👩", ["👨", "", "\u200d👩"]),
    ],
)
def test_a_cluster_that_clearly_goes_on_is_held_back(text, expected):
    pieces, _ = stream(lambda ids: "".join(map(chr, ids)), map(ord, text))

    assert pieces[:-1] == expected
    assert pieces[-1] == ""


def test_conjoining_jamo_wait_for_the_next_character():
    pieces, _ = stream(lambda ids: "".join(map(chr, ids)), [0x1112, 0x1161, 0x11AB, 0x1112])

    assert pieces == ["", "", "\u1112\u1161\u11ab", "", "\u1112"]


def test_a_base_that_comes_with_its_joiner_waits_for_the_other_half():
    table = ["a👨\u200d", "👩"]

    pieces, _ = stream(lambda ids: "".join(table[i] for i in ids), [0, 1])

    assert pieces == ["a", "👨\u200d👩", ""]


def test_joiners_without_end_are_shown_in_the_end():
    pieces, _ = stream(lambda ids: "\u200d" * len(ids), range(200))

    assert "".join(pieces) == "\u200d" * 200
    assert pieces[-1] != "\u200d" * 200


def letters(ids):
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcSTOPdef", ["STOP"], "abc"),
        ("abcSTOPdef", ["def", "STOP"], "abc"),
        ("STOP", ["STOP"], ""),
        ("abSTOSTOPc", ["STOP"], "abSTO"),
        ("aaab", ["aab"], "a"),
        ("abcd", ["cd", "bcd"], "a"),
        ("abcd", ["abcd", "bc"], "a"),
        ("답: 네\n\n질문", ["\n\n"], "답: 네"),
        ("좋아요😀끝", ["😀"], "좋아요"),
        ("no stop ST", ["STOP"], "no stop ST"),
    ],
)
def test_the_first_stop_string_ends_the_text_however_ids_cut_it(text, stop, expected):
    for size in range(1, len(text) + 1):
        table = [text[start : start + size] for start in range(0, len(text), size)]

        def decode(ids, table=table):
            return "".join(table[token] for token in ids)

        pieces, streamed = stream(decode, range(len(table)), stop=stop)

        assert "".join(pieces) == streamed.text == expected
        assert streamed.stopped == (expected != text)


def test_what_may_begin_a_stop_string_is_held_back_until_it_does_not():
    pieces, _ = stream(letters, map(ord, "a#b##"), stop=["###"])

    assert pieces == ["a", "", "#b", "", "", "##"]


def test_nothing_is_shown_after_a_stop_string():
    text = IncrementalText(letters, stop=["!"])

    shown = [text.push(*map(ord, "a!b")), text.push(ord("c")), text.finish()]

    assert shown == ["a", "", ""]
    assert text.stopped
    assert text.stop_string == "!"
    assert text.text == "a"


def test_a_stop_string_that_is_complete_only_at_the_end_is_still_cut():
    pieces, streamed = stream(letters, map(ord, "ab\u1112"), stop=["\u1112"])

    assert "".join(pieces) == "ab"
    assert streamed.stopped


def test_without_a_stop_string_nothing_is_stopped():
    _, streamed = stream(letters, map(ord, "ab"), stop=["x"])

    assert not streamed.stopped
    assert streamed.stop_string is None


def test_several_ids_at_once_give_the_pieces_of_single_ones():
    text = IncrementalText(Bytes().decode)

    assert text.push(*"안녕".encode()[:4]) == "안"
    assert text.push(*"안녕".encode()[4:]) == "녕"


def test_finishing_twice_gives_nothing_and_pushing_afterwards_is_a_mistake():
    text = IncrementalText(Bytes().decode)
    text.push(0xEC)

    assert (text.finish(), text.finish()) == ("\ufffd", "")
    with pytest.raises(RuntimeError, match="after finish"):
        text.push(65)


def test_no_ids_give_no_text():
    pieces, streamed = stream(Bytes().decode, [])

    assert (pieces, streamed.text) == ([""], "")


def test_with_a_context_the_first_id_continues_it():
    alone, _ = stream(Words().decode, [1, 2], context_ids=())
    after, _ = stream(Words().decode, [1, 2], context_ids=[3] * 100)

    assert "".join(alone) == "ab"
    assert "".join(after) == " ab"


def test_only_the_end_of_a_context_is_decoded_and_never_from_inside_a_character():
    toy = Bytes(fallback=True)
    context = toy.encode("가" * 500)

    pieces, _ = stream(toy.decode, toy.encode("나"), context_ids=context)

    assert "".join(pieces) == "나"
    assert toy.longest <= 16


def test_the_filter_does_not_depend_on_how_text_is_cut():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choice("ab") for _ in range(12))
        stop = ["".join(rng.choice("ab") for _ in range(rng.randint(2, 5))) for _ in range(2)]
        cut = rng.randrange(13)
        whole, pieces = StopFilter(stop), StopFilter(stop)

        expected = whole.push(text) + whole.finish()

        assert pieces.push(text[:cut]) + pieces.push(text[cut:]) + pieces.finish() == expected
        assert pieces.found == whole.found


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_real_tokenizers_stream_what_they_decode(tokenizer, text):
    ids = tokenizer.encode(text).ids

    pieces, streamed = stream(tokenizer.decode, ids)

    assert "".join(pieces) == streamed.text == tokenizer.decode(ids)


def test_real_tokenizers_stream_random_ids_as_decoded(tokenizer):
    rng = random.Random(0)
    size = tokenizer.get_vocab_size()
    for _ in range(30):
        ids = [rng.randrange(size) for _ in range(100)]

        pieces, _ = stream(tokenizer.decode, ids)

        assert "".join(pieces) == tokenizer.decode(ids)


def test_real_tokenizers_stream_random_ids_among_control_tokens_as_decoded(tokenizer):
    rng = random.Random(1)
    added = tokenizer.get_added_tokens_decoder()
    control = [token for token, entry in added.items() if entry.special]
    words = tokenizer.encode(TEXTS["mixed"], add_special_tokens=False).ids
    for _ in range(50):
        ids = [rng.choice(control if rng.random() < 0.4 else words) for _ in range(60)]

        pieces, _ = stream(tokenizer.decode, ids)

        assert "".join(pieces) == tokenizer.decode(ids)


def test_real_tokenizers_never_show_half_a_character(tokenizer):
    ids = tokenizer.encode(TEXTS["emoji"] + TEXTS["korean"]).ids

    pieces, _ = stream(tokenizer.decode, ids)

    assert "\ufffd" not in "".join(pieces)
    assert not any(piece.endswith("\u200d") for piece in pieces)


def test_real_tokenizers_stop_inside_a_text(tokenizer):
    text = "first line. second line. third line."
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    pieces, streamed = stream(tokenizer.decode, ids, stop=["third", "cond li"])

    assert streamed.stopped
    assert "".join(pieces) == "first line. se"


def test_real_tokenizers_continue_a_context(tokenizer):
    ids = tokenizer.encode(TEXTS["english"] + TEXTS["korean"], add_special_tokens=False).ids
    for cut in range(1, len(ids)):
        context = tokenizer.decode(ids[:cut])
        if "\ufffd" in context:
            continue

        pieces, _ = stream(tokenizer.decode, ids[cut:], context_ids=ids[:cut])

        assert context + "".join(pieces) == tokenizer.decode(ids)
