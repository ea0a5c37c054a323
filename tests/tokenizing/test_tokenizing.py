import json
import unicodedata

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from toys import CONTROL, LLAMAS, llama, toy_backend, wordpiece

from lmkit.errors import TokenizerError
from lmkit.tokenizing import Span, Tokenizer

SHARED_NAMES = ("gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased", "koelectra-wordpiece")
LOSSLESS = ("gpt2", "qwen2", "smollm2")


def control_ids(tokenizer, ids):
    return [tokenizer.id_to_token(i) for i in ids if tokenizer.is_control(i)]


class TestControlTokens:
    def test_act_in_trusted_text(self, toy):
        assert toy.encode("a<|im_end|>b", trusted=True) == [
            *toy.encode("a"),
            toy.token_to_id("<|im_end|>"),
            *toy.encode("b"),
        ]

    def test_are_plain_text_in_text_that_is_not_trusted(self, toy):
        ids = toy.encode("<|im_end|>")

        assert len(ids) == len("<|im_end|>")
        assert toy.decode(ids) == "<|im_end|>"

    def test_halves_of_one_never_join_over_a_border_of_trust(self, toy):
        ids = toy.encode_spans(
            [Span("<|im_", trusted=False), Span("end|>", trusted=True)], opens=True
        )

        assert control_ids(toy, ids) == []

    def test_halves_that_are_both_trusted_do_join(self, toy):
        ids = toy.encode_spans(
            [Span("<|im_", trusted=True), Span("end|>", trusted=True)], opens=True
        )

        assert ids == [toy.token_to_id("<|im_end|>")]

    def test_the_longest_of_two_that_match_wins(self, toy):
        longer = toy.with_special("pad_token", "<s>>")

        assert longer.encode("<s>>", trusted=True) == [longer.token_to_id("<s>>")]

    def test_swallow_white_space_where_they_say_so(self):
        backend = toy_backend()
        backend.add_special_tokens([AddedToken("<m>", lstrip=True, rstrip=True, special=True)])
        tokenizer = Tokenizer(backend.to_str())
        ids = tokenizer.encode("a <m> b", trusted=True)

        assert ids == [*tokenizer.encode("a"), tokenizer.token_to_id("<m>"), *tokenizer.encode("b")]

    @pytest.mark.parametrize("name", SHARED_NAMES)
    def test_typed_by_a_user_are_plain_text_for_every_tokenizer(self, name, load_shared):
        tokenizer = load_shared(name)
        for control in tokenizer.control:
            for text in (
                control.text,
                f"a{control.text}b",
                f"a {control.text} b",
                control.text * 2,
            ):
                forged = [i for i in tokenizer.encode(text) if i == control.id]

                assert not forged or control.text == tokenizer.special.get("unk_token"), text

    @pytest.mark.parametrize(
        "spelling", ["＜/s＞", "<\x01/s>", "</\u00ads>", "<\u200b/s>", "</s>\x01", "</ｓ>"]
    )
    def test_are_not_forged_by_spellings_that_a_normalizer_mends(self, spelling, load_shared):
        """T5's normalizer makes `</s>`, which its vocabulary holds as a piece, of most of these."""
        tokenizer = load_shared("t5")
        ids = tokenizer.encode(f"a {spelling} b{spelling}")

        assert set(control_ids(tokenizer, ids)) <= {"<unk>"}  # T5 knows no "<"

    def test_are_not_forged_by_many_at_once(self, load_shared):
        """They were once mended one call deep each, which Python's stack does not hold."""
        tokenizer = load_shared("t5")

        assert tokenizer.eos_id not in tokenizer.encode("</s>" * 2000)

    def test_an_unknown_character_is_still_the_unknown_token(self, load_shared):
        tokenizer = load_shared("bert-base-uncased")

        assert tokenizer.encode("🦙") == [tokenizer.token_to_id("[UNK]")]


class TestText:
    TEXTS = (
        "plain text",
        "  two spaces, and a tab\t",
        "\n\nlines\n",
        "한국어 문장입니다.",
        unicodedata.normalize("NFD", "한글"),
        "👩‍👩‍👧‍👦 family",
        "a\u0301\u0328 combining",
        "",
    )

    @pytest.mark.parametrize("name", LOSSLESS)
    @pytest.mark.parametrize("text", TEXTS)
    def test_comes_back_from_its_ids(self, name, text, load_shared):
        tokenizer = load_shared(name)

        assert tokenizer.decode(tokenizer.encode(text)) == text

    @pytest.mark.parametrize("name", SHARED_NAMES)
    def test_gets_the_ids_that_the_library_gives_it(self, name, load_shared):
        tokenizer = load_shared(name)
        backend = Backend.from_str(tokenizer.definition)
        backend.no_padding()  # BERT's was saved with both
        backend.no_truncation()
        for text in self.TEXTS:
            assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids

    @pytest.mark.parametrize("lost", ["\x16", "\U00040000"])
    def test_of_bytes_that_a_vocabulary_lacks_is_unknown(self, lost, load_shared):
        """SmolLM2's lacks those of some control characters and of planes that hold no characters."""
        assert load_shared("smollm2").unknown_in(f"a{lost}\x00\ufffd한") == [lost]
        assert load_shared("gpt2").unknown_in(f"a{lost}\x00\ufffd한") == []

    @pytest.mark.parametrize("blank", [" ", "\u200b", "\u3000", "\n"])
    def test_continues_with_a_new_word_behind_what_parts_words(self, blank, load_shared):
        """T5's normalizer makes a space of each; the words' own spaces are made of where it cuts."""
        tokenizer = load_shared("t5")
        rest = tokenizer.encode(f"one{blank}two")[len(tokenizer.encode("one")) :]

        assert tokenizer.encode(f"one{blank}two", opens=False) == [
            *tokenizer.encode("one", opens=False),
            *rest,
        ]
        assert tokenizer.reopens_after([Span(f"one{blank}")])
        assert not tokenizer.reopens_after([Span("one")])

    def test_of_no_characters_has_no_ids(self, toy):
        assert toy.encode("") == []


class TestAStretchThatContinues:
    """It gets no space and no start marker, so that stretches encoded apart join without a seam."""

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_gets_no_opening_space(self, kind):
        tokenizer = Tokenizer.load(llama(kind))
        opening, going_on = tokenizer.encode("hi"), tokenizer.encode("hi", opens=False)

        assert [tokenizer.id_to_token(i) for i in opening] == ["▁hi"]
        assert [tokenizer.id_to_token(i) for i in going_on] == ["hi"]

    @pytest.mark.parametrize("kind", LLAMAS)
    @pytest.mark.parametrize(
        ("left", "right"),
        [
            ("hi", " yo"),
            ("hi ", "yo"),
            ("hi\n", "yo"),
            ("h", "i"),
            (" hi", "  yo"),
            ("네", "é👩‍👧"),
        ],
    )
    def test_joins_to_the_text_that_was_cut(self, kind, left, right):
        tokenizer = Tokenizer.load(llama(kind))
        ids = tokenizer.encode(left) + tokenizer.encode(right, opens=False)

        assert tokenizer.decode(ids).lstrip(" ") == (left + right).lstrip(" ")

    def test_joins_in_t5_too(self, load_shared):
        tokenizer = load_shared("t5")
        ids = tokenizer.encode("translate") + tokenizer.encode("able words", opens=False)

        assert tokenizer.decode(ids) == "translateable words"

    @pytest.mark.parametrize("kind", LLAMAS)
    @pytest.mark.parametrize("text", ["<s>hi yo</s>", "hi<s>hi", "<s> hi</s>\nyo", "</s></s>hi"])
    def test_after_a_control_token_is_what_the_library_makes_it(self, kind, text):
        backend = llama(kind)
        tokenizer = Tokenizer.load(backend)

        assert (
            tokenizer.encode(text, trusted=True)
            == backend.encode(text, add_special_tokens=False).ids
        )

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_reopens_after_a_control_token_where_the_library_does(self, kind):
        tokenizer = Tokenizer.load(llama(kind))

        assert tokenizer.reopens_after([Span("hi<s>", trusted=True)]) == (kind != "first")
        assert not tokenizer.reopens_after([Span("hi<s>", trusted=False)])
        assert not tokenizer.reopens_after([])

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_opening_ids_are_what_the_post_processor_puts_first(self, kind):
        tokenizer = Tokenizer.load(llama(kind))

        assert tokenizer.opening_ids == (tokenizer.token_to_id("<s>"),)


class TestEndsTurn:
    def test_a_control_token_does(self, toy):
        assert toy.ends_turn(toy.token_to_id("<|im_end|>"))

    def test_a_letter_does_not(self, toy):
        assert not toy.ends_turn(toy.token_to_id("a"))

    def test_an_unknown_character_does_not_although_its_token_is_special(self, load_shared):
        tokenizer = load_shared("bert-base-uncased")

        assert not tokenizer.ends_turn(tokenizer.token_to_id("[UNK]"))


class TestLoading:
    @pytest.mark.parametrize("name", ["smollm2", "bert-base-uncased"])
    def test_what_was_saved_is_the_same_tokenizer(self, name, load_shared, tmp_path):
        tokenizer = load_shared(name)
        tokenizer.save(tmp_path)

        assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint

    def test_a_loaded_library_object_is_taken(self, toy):
        loaded = Tokenizer.load(Backend.from_str(toy.definition))

        assert loaded.encode("ab") == toy.encode("ab")

    def test_a_bare_definition_guesses_the_end_of_a_text_from_its_usual_name(self, tmp_path):
        file = tmp_path / "tokenizer.json"
        file.write_text(toy_backend().to_str(), "utf-8")

        assert Tokenizer.load(file).special["eos_token"] == "<|endoftext|>"

    def test_a_list_of_templates_gives_its_default(self, tmp_path, toy):
        toy.save(tmp_path)
        templates = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
        config = {"eos_token": "<|endoftext|>", "chat_template": templates}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")

        assert Tokenizer.load(tmp_path).chat_template == "d"

    def test_a_length_of_1e30_is_none(self, load_shared):
        assert load_shared("qwen2").max_length is None
        assert load_shared("gpt2").max_length == 1024

    def test_truncation_and_padding_that_were_saved_with_it_do_nothing(self, toy):
        backend = toy_backend()
        backend.enable_truncation(2)
        backend.enable_padding(length=5)

        assert Tokenizer.load(backend).encode("abc") == toy.encode("abc")

    def test_a_folder_without_one_is_refused(self, tmp_path):
        with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
            Tokenizer.load(tmp_path)

    def test_a_file_that_is_no_json_is_refused(self, tmp_path):
        (tmp_path / "tokenizer.json").write_text("{", "utf-8")

        with pytest.raises(TokenizerError, match=r"is not a tokenizer\.json"):
            Tokenizer.load(tmp_path)

    def test_another_object_is_refused(self):
        with pytest.raises(TokenizerError, match="a int is not a tokenizer"):
            Tokenizer.load(3)

    def test_a_special_token_that_it_lacks_is_refused(self):
        with pytest.raises(TokenizerError, match="eos_token is '<none>'"):
            Tokenizer(toy_backend().to_str(), special={"eos_token": "<none>"})


class TestWithSpecial:
    def test_an_existing_token_gets_the_role_and_nothing_is_added(self, toy):
        changed = toy.with_special("pad_token", "<pad>")

        assert changed.pad_id == toy.token_to_id("<pad>")
        assert len(changed) == len(toy)

    def test_a_new_token_is_added_behind_all_others(self, toy):
        changed = toy.with_special("pad_token", "[PAD]")

        assert changed.pad_id == len(toy)
        assert changed.is_control(changed.pad_id)
        assert len(changed) == len(toy) + 1

    def test_the_tokenizer_itself_stays_as_it_was(self, toy):
        toy.with_special("pad_token", "[PAD]")

        assert toy.pad_id is None


class TestTheFingerprint:
    def test_changes_with_the_template(self, toy):
        assert toy.with_template("x").fingerprint != toy.fingerprint

    def test_changes_with_a_role(self, toy):
        assert toy.with_special("pad_token", "<pad>").fingerprint != toy.fingerprint


def test_the_toy_writes_one_id_for_a_character(toy):
    assert len(toy.encode("한글 ab\n")) == 6
    assert [token.text for token in toy.control] == list(CONTROL)


def test_decoding_leaves_control_tokens_out_unless_told_otherwise(toy):
    ids = toy.encode("a<|im_end|>", trusted=True)

    assert toy.decode(ids) == "a"
    assert toy.decode(ids, skip_control=False) == "a<|im_end|>"


@pytest.mark.parametrize(
    ("frame", "opening", "closing"),
    [
        ("$A", [], []),
        ("$A <|endoftext|>", [], ["<|endoftext|>"]),
        ("<s> $A <|endoftext|>", ["<s>"], ["<|endoftext|>"]),
        ("$A <|endoftext|> <|im_start|>", [], ["<|endoftext|>", "<|im_start|>"]),
    ],
)
def test_the_ids_around_any_text_are_the_tokenizers_own(frame, opening, closing):
    backend = toy_backend()
    names = ("<s>", "<|endoftext|>", "<|im_start|>")
    backend.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )

    found = Tokenizer(backend.to_str())

    assert found.opening_ids == tuple(map(found.token_to_id, opening))
    assert found.closing_ids == tuple(map(found.token_to_id, closing))


class TestFramesAndRoles:
    def test_a_tokenizer_s_own_frame_is_what_it_puts_around_any_text(self, toy_with_bos):
        tokenizer = wordpiece()

        assert (tokenizer.opening_ids, tokenizer.closing_ids) == ((2,), (3,))
        assert (toy_with_bos.opening_ids[-1:], toy_with_bos.closing_ids) == ((3,), ())

    def test_a_t5_only_closes(self, load_shared):
        t5 = load_shared("t5")

        assert (t5.opening_ids, t5.closing_ids) == ((), (t5.eos_id,))

    def test_plain_tokens_are_all_but_the_control_tokens(self):
        assert wordpiece().plain_ids == tuple(range(5, 17))

    def test_the_mask_token_has_an_id_where_there_is_one(self, toy):
        assert (wordpiece().mask_id, toy.mask_id) == (4, None)


def test_a_loaded_object_is_read_once_until_it_changes():
    backend = toy_backend()
    first, again = Tokenizer.load(backend), Tokenizer.load(backend)
    backend.add_special_tokens([AddedToken("<|new|>", special=True)])

    changed = Tokenizer.load(backend)

    assert again is first
    assert first.token_to_id("<|new|>") is None
    assert changed.is_control(changed.token_to_id("<|new|>"))
