import pytest

from lmkit.errors import TokenizerError, UnknownName
from lmkit.records import read
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import CONTROL, END, PAD, UNKNOWN, parse_tokenizer, texts_in, train_tokenizer

DATA = [{"prompt": "안녕하세요?\n", "completion": " Hello, hello!"}, {"prompt": "네", "n": 3}]
BYTES = 256


class TestEveryKind:
    @pytest.fixture(params=["bpe", "char"])
    def tokenizer(self, request):
        return train_tokenizer(kind=request.param, data=DATA, vocab_size=BYTES + len(CONTROL) + 20)

    def test_text_from_the_data_comes_back_as_it_was(self, tokenizer):
        for text in texts_in(DATA):
            assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_control_tokens_have_the_first_ids_and_their_roles(self, tokenizer):
        assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(len(CONTROL)))
        assert (tokenizer.eos_id, tokenizer.pad_id) == (CONTROL.index(END), CONTROL.index(PAD))

    def test_the_end_and_the_padding_are_two_tokens(self, tokenizer):
        assert tokenizer.eos_id != tokenizer.pad_id

    def test_control_tokens_in_the_data_stay_text(self, tokenizer):
        assert tokenizer.token_to_id(END) not in tokenizer.encode(END)

    def test_it_has_a_chat_template_so_chats_work_from_scratch(self, tokenizer):
        assert "<|im_start|>" in tokenizer.chat_template

    def test_it_is_the_same_after_a_trip_through_a_folder(self, tokenizer, tmp_path):
        tokenizer.save(tmp_path)

        assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint

    def test_the_same_data_gives_the_same_tokenizer(self, tokenizer):
        kind = "char" if tokenizer.vocab_size < BYTES else "bpe"
        again = train_tokenizer(kind=kind, data=DATA, vocab_size=BYTES + len(CONTROL) + 20)

        assert again.fingerprint == tokenizer.fingerprint


class TestCharacters:
    def test_one_character_is_one_token_line_ends_too(self):
        tokenizer = train_tokenizer(kind="char", data=DATA)

        assert len(tokenizer.encode("안녕\n")) == 3

    def test_a_character_that_was_not_in_the_data_is_unknown(self):
        tokenizer = train_tokenizer(kind="char", data=DATA)

        assert tokenizer.encode("漢") == [tokenizer.token_to_id(UNKNOWN)]

    def test_the_most_frequent_characters_are_kept(self):
        tokenizer = train_tokenizer(
            kind="char", data=[{"x": "aaabbc"}], vocab_size=len(CONTROL) + 2
        )

        assert tokenizer.vocab_size == len(CONTROL) + 2
        assert tokenizer.token_to_id("a") is not None
        assert tokenizer.token_to_id("c") is None


class TestByteLevelBpe:
    def test_nothing_is_unknown(self):
        tokenizer = train_tokenizer(kind="bpe", data=DATA, vocab_size=BYTES + len(CONTROL))

        ids = tokenizer.encode("漢字 🙂\x00")

        assert tokenizer.token_to_id(UNKNOWN) not in ids
        assert tokenizer.decode(ids) == "漢字 🙂\x00"

    def test_it_has_no_more_tokens_than_asked_for(self):
        size = BYTES + len(CONTROL) + 4

        assert train_tokenizer(kind="bpe", data=DATA, vocab_size=size).vocab_size == size

    def test_repeated_text_becomes_fewer_tokens(self):
        tokenizer = train_tokenizer(kind="bpe", data=[{"x": "hello hello hello"}])

        assert len(tokenizer.encode("hello")) == 1


class TestWhatIsRefused:
    def test_an_unknown_kind_lists_the_known_ones(self):
        with pytest.raises(
            UnknownName, match=r"no kind of tokenizer named 'bpee'\n  close to: bpe"
        ):
            train_tokenizer(kind="bpee", data=DATA)

    def test_a_size_that_only_control_tokens_fill(self):
        with pytest.raises(TokenizerError, match="vocab_size is 5; 5 go to control tokens"):
            train_tokenizer(kind="char", data=DATA, vocab_size=len(CONTROL))

    def test_a_size_that_not_even_the_bytes_fit_into(self):
        with pytest.raises(TokenizerError, match=f"needs {BYTES + len(CONTROL)} or more"):
            train_tokenizer(kind="bpe", data=DATA, vocab_size=100)


class TestOnTheCommandLine:
    def test_a_kind_alone_takes_the_usual_size(self):
        named = parse_tokenizer("char", DATA)

        assert named.fingerprint == train_tokenizer(kind="char", data=DATA).fingerprint

    def test_a_size_may_follow_the_kind(self):
        assert parse_tokenizer("bpe:270", DATA).vocab_size == 270

    def test_a_folder_is_loaded(self, tmp_path):
        tokenizer = train_tokenizer(kind="char", data=DATA)
        tokenizer.save(tmp_path)

        assert parse_tokenizer(str(tmp_path), DATA).fingerprint == tokenizer.fingerprint

    @pytest.mark.parametrize("text", ["bpe:", "bpe:many"])
    def test_a_size_that_is_no_number_is_refused(self, text):
        with pytest.raises(TokenizerError, match="should end in a number of tokens, such as bpe"):
            parse_tokenizer(text, DATA)

    def test_what_is_neither_is_refused(self):
        with pytest.raises(TokenizerError, match=r"'gone' has no tokenizer\.json"):
            parse_tokenizer("gone", DATA)


def test_texts_are_found_however_deep():
    rows = read([{"a": "x", "n": 1, "m": [{"content": "y"}, {"content": "z"}], "none": None}])

    assert list(texts_in(rows)) == ["x", "y", "z"]
