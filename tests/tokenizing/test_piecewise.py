"""Texts that are read by pieces get the ids that the library gives them."""

from __future__ import annotations

import json
import random

import pytest
from toys import LLAMAS, llama

from lmkit.errors import RecordError
from lmkit.tokenizing import Span, Tokenizer
from lmkit.vocabulary import parse_tokenizer

SHARED_NAMES = ("gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased", "koelectra-wordpiece")
FILES = ("alpaca_en.jsonl", "ko_chat_qa.jsonl", "summaries_en.jsonl", "nsmc_sentiment.jsonl")

# What texts are made of at random: of each kind that some pattern tells from the others.
SCRAPS = (
    *("a", "Z", "é", "Ñ", "ſ", "ß", "İ", "Я", "ω", "ぎ", "漢", "값", "한글", "\u1100\u1161", "ᆨ"),
    *("0", "7", "42", "1234", "²", "½", "٣", "Ⅷ"),
    *(
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2003",
    ),
    *("\u3000", "\u200b", "\u2028", "\ufeff", "\x00", "\x7f"),
    *("'s", "'S", "'ll", "'ſ", "'", "’", ".", ",", "!!", "...", "…", "-", "_", "(", "[", "]", "#"),
    *("€", "→", "´", "¨", "🙂", "👩\u200d👧", "\ufe0f", "\u0301", "\u0600", "\U0001f1f0\U0001f1f7"),
    *("</s>", "<unk>", "[UNK]", "[SEP]", "<|im_end|>", "<|endoftext|>", "＜/s＞", "the", " and"),
)


def without_pieces(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that asks the library for each text."""
    plain = Tokenizer(
        tokenizer.definition, special=tokenizer.special, chat_template=tokenizer.chat_template
    )
    for pieces in plain._pieces.values():
        pieces.ways = ()
        pieces.ids = lambda text: None
    return plain


def texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(SCRAPS, k=draw.randint(1, 12))) for _ in range(count)]


def changed(tokenizer: Tokenizer, **stages) -> Tokenizer:
    """Return a tokenizer with other rules to normalize a text, or to cut it by."""
    data = json.loads(tokenizer.definition) | stages
    return Tokenizer(json.dumps(data), special=tokenizer.special)


def assert_alike(tokenizer: Tokenizer, some: list[str]) -> None:
    plain = without_pieces(tokenizer)
    for text in some:
        for opens in (True, False):
            assert tokenizer.encode(text, opens=opens) == plain.encode(text, opens=opens), text


class TestEverySharedTokenizer:
    @pytest.mark.parametrize("name", SHARED_NAMES)
    def test_gives_random_texts_the_librarys_ids(self, name, load_shared):
        tokenizer = load_shared(name)

        assert tokenizer._pieces[True].ways
        assert_alike(tokenizer, texts(0, 1000))

    @pytest.mark.parametrize("file", FILES)
    @pytest.mark.parametrize("name", SHARED_NAMES)
    def test_gives_real_texts_the_librarys_ids(self, name, file, load_shared, shared_rows):
        rows = shared_rows(file, 60)
        some = [text for row in rows for text in row.values() if isinstance(text, str)]

        assert_alike(load_shared(name), some)


def split(pattern):
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {"type": "Sequence", "pretokenizers": [rule, spelled | {"use_regex": False}]}


DIGITS = {"type": "Digits", "individual_digits": True}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NFC = {"type": "NFC"}
# As their tokenizer.json have them, and SmolLM2's own.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VARIANTS = {
    "llama3": {"pre_tokenizer": split(LLAMA3)},
    "llama3 in NFC": {"pre_tokenizer": split(LLAMA3), "normalizer": NFC},
    "smollm2": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, GPT2]}},
    "gpt2 in NFC": {"normalizer": NFC},
}
NOT_BY_PIECES = {
    "lower case": {"normalizer": {"type": "Lowercase"}},
    "a pattern of its own": {"pre_tokenizer": split(r"\p{L}+|.")},
    "an opening space": {"pre_tokenizer": GPT2 | {"add_prefix_space": True}},
}


@pytest.mark.parametrize("stages", VARIANTS.values(), ids=VARIANTS)
def test_other_rules_of_byte_level_tokenizers_are_known(stages, load_shared):
    tokenizer = changed(load_shared("gpt2"), **stages)

    assert tokenizer._pieces[True].ways
    assert_alike(tokenizer, texts(1, 1000))


@pytest.mark.parametrize("stages", NOT_BY_PIECES.values(), ids=NOT_BY_PIECES)
def test_other_rules_are_left_to_the_library(stages, load_shared):
    tokenizer = changed(load_shared("gpt2"), **stages)

    assert not tokenizer._pieces[True].ways
    assert_alike(tokenizer, texts(2, 100))


@pytest.mark.parametrize("kind", ["bpe", "char:unk", "wordpiece", "unigram"])
def test_tokenizers_that_lmkit_learns_give_the_librarys_ids(kind):
    some = texts(3, 500)
    tokenizer = parse_tokenizer(kind, [{"text": text} for text in some[:250]])

    assert_alike(tokenizer, some)


def test_added_tokens_that_act_in_any_text_act_in_pieces(load_shared):
    data = json.loads(load_shared("gpt2").definition)
    added = {"id": len(data["model"]["vocab"]), "content": "b c", "special": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"].append(added | flags)
    tokenizer = Tokenizer(json.dumps(data))

    assert added["id"] in tokenizer.encode("a b c d")
    assert_alike(tokenizer, ["a b c d", "ab cd", "a b", "c d"])


def test_an_unknown_character_is_named_as_ever():
    tokenizer = parse_tokenizer("char", [{"text": "ab"}])
    for _ in range(2):
        with pytest.raises(RecordError, match="has not learned the characters '漢'"):
            tokenizer.encode("a漢")

    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


def test_pieces_are_forgotten_where_they_become_many(monkeypatch, load_shared):
    monkeypatch.setattr("lmkit.tokenizing.piecewise.MOST_REMEMBERED", 100)
    tokenizer = Tokenizer(load_shared("gpt2").definition)
    some = texts(4, 200)
    assert_alike(tokenizer, some)

    assert len(tokenizer._pieces[True]._known) < 50


@pytest.mark.parametrize("kind", LLAMAS)
def test_texts_that_are_read_ahead_get_the_ids_of_each(kind):
    tokenizer = Tokenizer.load(llama(kind))
    spans = [[Span(text), Span("<s>", trusted=True), Span(text)] for text in texts(5, 200)]
    alone = [tokenizer.encode_spans(each, opens=opens) for each in spans for opens in (True, False)]
    tokenizer.read_ahead([(each, opens) for each in spans for opens in (True, False)])

    assert len(tokenizer._ahead) > 300
    assert alone == [
        tokenizer.encode_spans(each, opens=opens) for each in spans for opens in (True, False)
    ]


def test_what_is_read_ahead_is_a_list_of_its_own():
    tokenizer = Tokenizer.load(llama(LLAMAS[0]))
    tokenizer.read_ahead([([Span("yo")], True)])
    tokenizer.encode("yo").append(0)

    assert tokenizer.encode("yo")[-1] != 0
