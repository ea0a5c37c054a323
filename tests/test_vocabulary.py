import unicodedata

import pytest
import tokenizers

import lmkit as lk
from lmkit.errors import RecordError, TokenizerError, UnknownName
from lmkit.records import read
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import CONTROL, END, PAD, UNKNOWN, parse_tokenizer, texts_in, train_tokenizer

DATA = [
    {"prompt": "안녕하세요?\n", "completion": " Hello, hello!"},
    {"prompt": "네", "n": 3},
    {"prompt": END},
]
BYTES = 256
TEXTS = [
    "유럽에서 망해버린 '다문화'라는 걸 부추기는 이상한 영화...",
    "저기...비교하시는분들.. 한국영화랑 외국영화랑 같아요? 아니죠!!",
    "Before we proceed any further, hear me speak.",
    "Resolved. resolved. (First, you know Caius Marcius.)",
    "30년 전의 홍금보 vs. Jackie Chan: a draw",
]


@pytest.fixture(scope="module")
def wordpiece():
    return train_tokenizer(kind="wordpiece", data=[{"text": text} for text in TEXTS])


@pytest.fixture(scope="module")
def unigram():
    rows = [{"text": text} for text in TEXTS]
    return train_tokenizer(kind="unigram", data=rows, vocab_size=BYTES + 150)


class TestThoseForGeneratedText:
    @pytest.fixture(params=[("bpe", "error"), ("char", "error"), ("char", "token")])
    def learn(self, request):
        def learn():
            kind, unknown = request.param
            size = BYTES + len(CONTROL) + 20
            return train_tokenizer(kind=kind, data=DATA, vocab_size=size, unknown=unknown)

        return learn

    @pytest.fixture
    def tokenizer(self, learn):
        return learn()

    def test_text_from_the_data_comes_back_as_it_was(self, tokenizer):
        for text in texts_in(DATA):
            assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_control_tokens_have_the_first_ids_and_their_roles(self, tokenizer):
        control = [token.text for token in tokenizer.control]

        assert [tokenizer.token_to_id(token) for token in control] == list(range(len(control)))
        assert set(CONTROL) - {UNKNOWN} <= set(control)
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

    def test_the_same_data_gives_the_same_tokenizer(self, learn, tokenizer):
        assert learn().fingerprint == tokenizer.fingerprint


class TestCharacters:
    def test_one_character_is_one_token_line_ends_too(self):
        tokenizer = train_tokenizer(kind="char", data=DATA)

        assert len(tokenizer.encode("안녕\n")) == 3

    def test_a_character_that_was_not_in_the_data_is_an_error_that_names_it(self):
        tokenizer = train_tokenizer(kind="char", data=DATA)

        with pytest.raises(
            RecordError, match=r"the characters '漢' \(U\+6F22\), '字' \(U\+5B57\); .* '안녕 漢字'"
        ):
            tokenizer.encode("안녕 漢字")

    def test_many_such_characters_are_counted(self):
        tokenizer = train_tokenizer(kind="char", data=[{"x": "a"}])

        with pytest.raises(RecordError, match=r"'k' \(U\+006B\) and 3 more;"):
            tokenizer.encode("abcdefghijklmn")

    def test_the_error_stays_an_error_on_disk_and_in_transformers_and_tokenizers(self, tmp_path):
        pytest.importorskip("transformers")
        from transformers import AutoTokenizer

        train_tokenizer(kind="char", data=DATA).save(tmp_path)

        with pytest.raises(RecordError, match="'漢'"):
            Tokenizer.load(tmp_path).encode("漢")
        with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
            tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("漢")
        with pytest.raises(Exception, match=r"Missing \[UNK\] token"):
            AutoTokenizer.from_pretrained(tmp_path)("漢")

    def test_it_is_the_unknown_token_when_asked_for(self):
        tokenizer = train_tokenizer(kind="char", data=DATA, unknown="token")

        assert tokenizer.encode("漢") == [tokenizer.token_to_id(UNKNOWN)]

    def test_the_unknown_can_be_asked_for(self):
        strict = train_tokenizer(kind="char", data=DATA)
        lenient = train_tokenizer(kind="char", data=DATA, unknown="token")

        for tokenizer in (strict, lenient):
            assert tokenizer.unknown_in("안漢녕字漢") == ["漢", "字"]

    def test_the_most_frequent_characters_are_kept_beside_an_unknown_token(self):
        tokenizer = train_tokenizer(
            kind="char", unknown="token", data=[{"x": "aaabbc"}], vocab_size=len(CONTROL) + 2
        )

        assert tokenizer.vocab_size == len(CONTROL) + 2
        assert tokenizer.token_to_id("a") is not None
        assert tokenizer.token_to_id("c") is None

    def test_none_may_be_left_out_without_one(self):
        with pytest.raises(
            TokenizerError, match="vocab_size is 6; 3 characters and 4 control tokens need 7"
        ):
            train_tokenizer(kind="char", data=[{"x": "aaabbc"}], vocab_size=6)

    def test_the_order_is_that_of_tokenizers_own_trainer(self):
        backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
            tokenizers.Regex(r"[\s\S]"), behavior="isolated"
        )
        trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=list(CONTROL))
        backend.train_from_iterator(TEXTS, trainer)

        mine = train_tokenizer(
            kind="char", unknown="token", data=[{"text": text} for text in TEXTS]
        )

        assert all(mine.token_to_id(token) == at for token, at in backend.get_vocab().items())
        assert mine.vocab_size == backend.get_vocab_size()

    def test_the_line_ends_of_a_text_file_are_learned(self, tmp_path):
        file = tmp_path / "two.txt"
        file.write_text("가\n\n나\n", "utf-8")

        tokenizer = train_tokenizer(kind="char", data=file)

        assert tokenizer.decode(tokenizer.encode("나\n\n가")) == "나\n\n가"


class TestWordpiece:
    @pytest.mark.parametrize("text", TEXTS)
    def test_text_comes_back_as_it_was(self, wordpiece, text):
        assert wordpiece.decode(wordpiece.encode(text)) == text

    def test_white_space_becomes_one_space(self, wordpiece):
        assert wordpiece.decode(wordpiece.encode("  영화라는\n\t영화 ")) == "영화라는 영화"

    def test_hangul_stays_composed_however_it_was_written(self, wordpiece):
        apart = unicodedata.normalize("NFD", "다문화")

        assert len(apart) > 3
        assert wordpiece.encode(apart) == wordpiece.encode("다문화")
        assert wordpiece.decode(wordpiece.encode(apart)) == "다문화"

    def test_its_control_tokens_have_berts_roles(self, wordpiece):
        assert [token.text for token in wordpiece.control] == [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
        ]
        assert wordpiece.special["mask_token"] == "[MASK]"
        assert wordpiece.pad_id == 0
        assert wordpiece.eos_id is None

    def test_a_text_is_framed_as_berts_is(self, wordpiece):
        backend = tokenizers.Tokenizer.from_str(wordpiece.definition)

        alone = backend.encode("영화")
        pair = backend.encode("영화", "First")

        assert (alone.tokens[0], alone.tokens[-1]) == ("[CLS]", "[SEP]")
        assert pair.tokens.count("[SEP]") == 2
        assert (pair.type_ids[0], pair.type_ids[-1]) == (0, 1)
        assert [wordpiece.id_to_token(token) for token in wordpiece.opening_ids] == ["[CLS]"]

    @pytest.mark.parametrize("text", TEXTS)
    def test_its_ids_are_those_of_the_tokenizers_library(self, wordpiece, text):
        backend = tokenizers.Tokenizer.from_str(wordpiece.definition)

        assert wordpiece.encode(text) == backend.encode(text, add_special_tokens=False).ids

    def test_a_word_with_an_unseen_character_is_unknown(self, wordpiece):
        unknown = wordpiece.token_to_id("[UNK]")

        assert wordpiece.encode("漢字") == [unknown]
        assert wordpiece.unknown_in("영漢") == ["漢"]

    def test_it_has_no_more_tokens_than_asked_for(self):
        rows = [{"text": text} for text in TEXTS]

        for size in (30, 80, 120):
            learned = train_tokenizer(kind="wordpiece", data=rows, vocab_size=size)
            assert learned.vocab_size <= size

    def test_its_mask_token_is_known_to_transformers(self, wordpiece, tmp_path):
        transformers = pytest.importorskip("transformers")
        wordpiece.save(tmp_path)

        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)

        assert loaded.mask_token_id == wordpiece.token_to_id("[MASK]")
        assert loaded(TEXTS[0])["input_ids"][1:-1] == wordpiece.encode(TEXTS[0])


class TestUnigram:
    @pytest.mark.parametrize("text", [*TEXTS, "두  칸\n\n두 줄", "漢字 👩‍👩‍👧 \x00"])
    def test_text_comes_back_as_it_was_whatever_is_in_it(self, unigram, text):
        assert unigram.decode(unigram.encode(text)) == text
        assert unigram.token_to_id("<unk>") not in unigram.encode(text)

    def test_it_loses_a_space_that_it_starts_with(self, unigram):
        assert unigram.encode(" speak") == unigram.encode("speak")

    def test_hangul_stays_composed_however_it_was_written(self, unigram):
        apart = unicodedata.normalize("NFD", "다문화")

        assert unigram.decode(unigram.encode(apart)) == "다문화"

    def test_its_control_tokens_have_t5s_roles(self, unigram):
        assert [token.text for token in unigram.control] == ["<pad>", "</s>", "<unk>"]
        assert (unigram.pad_id, unigram.eos_id) == (0, 1)

    def test_a_text_is_closed_and_not_opened(self, unigram):
        backend = tokenizers.Tokenizer.from_str(unigram.definition)

        assert backend.encode("영화").tokens[-1] == "</s>"
        assert unigram.opening_ids == ()

    @pytest.mark.parametrize("text", [*TEXTS, "漢字\n줄"])
    def test_its_ids_are_those_of_the_tokenizers_library(self, unigram, text):
        backend = tokenizers.Tokenizer.from_str(unigram.definition)

        assert unigram.encode(text) == backend.encode(text, add_special_tokens=False).ids

    def test_stretches_encoded_apart_join_without_a_seam(self, unigram):
        ids = unigram.encode("다문") + unigram.encode("화라는 걸", opens=False)

        assert unigram.decode(ids) == "다문화라는 걸"

    def test_it_has_no_more_tokens_than_asked_for(self, unigram):
        assert unigram.vocab_size <= BYTES + 150

    def test_a_size_that_the_bytes_do_not_fit_into_is_refused(self):
        with pytest.raises(TokenizerError, match="vocab_size is 200; unigram needs 260 or more"):
            train_tokenizer(kind="unigram", data=DATA, vocab_size=200)

    def test_so_is_one_that_the_characters_do_not_fit_into(self):
        rows = [{"text": text} for text in TEXTS]

        with pytest.raises(TokenizerError, match="vocab_size is 262, of which 256 are bytes"):
            train_tokenizer(kind="unigram", data=rows, vocab_size=262)


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
        with pytest.raises(TokenizerError, match="vocab_size is 4; 4 go to control tokens"):
            train_tokenizer(kind="char", data=DATA, vocab_size=len(CONTROL) - 1)

    def test_a_way_with_the_unknown_that_there_is_not(self):
        with pytest.raises(UnknownName, match="no way with unknown characters named 'drop'"):
            train_tokenizer(kind="char", data=DATA, unknown="drop")

    @pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
    def test_an_unknown_token_for_a_kind_that_decides_that_itself(self, kind):
        with pytest.raises(TokenizerError, match=f"is for char; {kind} has its own way"):
            train_tokenizer(kind=kind, data=DATA, unknown="token")

    def test_a_size_that_not_even_the_bytes_fit_into(self):
        with pytest.raises(TokenizerError, match=f"needs {BYTES + len(CONTROL)} or more"):
            train_tokenizer(kind="bpe", data=DATA, vocab_size=100)


def letters(tokenizer):
    """Return what a character tokenizer has learned."""
    control = {token.text for token in tokenizer.control}
    return {tokenizer.id_to_token(index) for index in range(tokenizer.vocab_size)} - control


ANSWERED = [{"prompt": "안녕", "completion": "네", "source": "XYZ"}]


class TestLearnedForATask:
    def test_its_own_text_is_in_and_columns_that_it_does_not_read_are_out(self):
        learned = train_tokenizer(kind="char", data=ANSWERED, task="qa")

        assert letters(learned) == set("질문: 안녕\n답변: 네")

    def test_a_prompt_can_be_encoded_that_the_data_alone_does_not_cover(self):
        record = {"prompt": "네 안녕"}

        assert len(
            lk.prompt_ids("qa", record, train_tokenizer(kind="char", data=ANSWERED, task="qa"))
        )
        with pytest.raises(RecordError, match="'질'"):
            lk.prompt_ids("qa", record, train_tokenizer(kind="char", data=ANSWERED))

    def test_what_a_chat_template_writes_is_in_but_for_its_control_tokens(self):
        turns = [{"role": "user", "content": "가"}, {"role": "assistant", "content": "나"}]

        learned = train_tokenizer(kind="char", data=[{"messages": turns}], task="chat")

        assert letters(learned) == set("userassistant\n가나")
        assert learned.decode(lk.prompt_ids("chat", {"messages": turns[:1]}, learned)) == (
            "user\n가\nassistant\n"
        )

    def test_a_mixture_has_the_characters_of_each_task(self):
        other = lk.Task(
            name="other",
            formatter=lk.context("Q {q}") + lk.target("A {a}"),
            collator=lk.CausalCollator(),
            decoder=lk.TextDecoder(),
        )
        data = {"qa": ANSWERED, "other": [{"q": "x", "a": "y"}]}

        learned = train_tokenizer(kind="char", data=data, task=lk.mix({"qa": 1, other: 1}))

        assert letters(learned) == set("질문: 안녕\n답변: 네Q xA y")

    def test_what_transforms_leave_out_is_out(self):
        task = lk.get_task("qa").where(lambda record: "x" not in record["prompt"])
        rows = [*ANSWERED, {"prompt": "x", "completion": "z"}]

        assert letters(train_tokenizer(kind="char", data=rows, task=task)).isdisjoint("xz")

    def test_pieces_are_learned_from_its_text_too(self):
        learned = train_tokenizer(kind="bpe", data=ANSWERED * 50, task="qa", vocab_size=300)

        assert len(learned.encode("질문: ")) < len(learned.encode("XYZ: "))

    def test_bad_rows_are_told_with_their_places(self):
        with pytest.raises(RecordError, match=r"rows:0: column 'completion' is missing"):
            train_tokenizer(kind="char", data=[{"prompt": "x"}], task="qa")


class TestOnTheCommandLine:
    def test_a_kind_alone_takes_the_usual_size(self):
        named = parse_tokenizer("char", DATA)

        assert named.fingerprint == train_tokenizer(kind="char", data=DATA).fingerprint

    def test_a_size_may_follow_the_kind(self):
        assert parse_tokenizer("bpe:270", DATA).vocab_size == 270

    @pytest.mark.parametrize("text", ["char:unk", "char:20:unk", "char:unk:20"])
    def test_characters_may_be_read_as_unknown(self, text):
        assert parse_tokenizer(text, DATA).token_to_id(UNKNOWN) is not None

    @pytest.mark.parametrize(("kind", "mask"), [("wordpiece", "[MASK]"), ("unigram", None)])
    def test_the_other_kinds_take_a_size_too(self, kind, mask):
        named = parse_tokenizer(f"{kind}:300", DATA)

        assert named.vocab_size <= 300
        assert named.special.get("mask_token") == mask

    def test_a_folder_is_loaded(self, tmp_path):
        tokenizer = train_tokenizer(kind="char", data=DATA)
        tokenizer.save(tmp_path)

        assert parse_tokenizer(str(tmp_path), DATA).fingerprint == tokenizer.fingerprint

    @pytest.mark.parametrize("text", ["bpe:", "bpe:many", "bpe:unk"])
    def test_a_size_that_is_no_number_is_refused(self, text):
        with pytest.raises(TokenizerError, match="should end in a number of tokens, such as bpe"):
            parse_tokenizer(text, DATA)

    def test_what_is_neither_is_refused(self):
        with pytest.raises(TokenizerError, match=r"'gone' has no tokenizer\.json"):
            parse_tokenizer("gone", DATA)


def test_texts_are_found_however_deep():
    rows = read([{"a": "x", "n": 1, "m": [{"content": "y"}, {"content": "z"}], "none": None}])

    assert list(texts_in(rows)) == ["x", "y", "z"]
