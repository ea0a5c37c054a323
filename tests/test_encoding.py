import unicodedata
from typing import ClassVar

import numpy as np
import pytest
from toys import LLAMAS, llama

import lmkit as lk
from lmkit.encoding import (
    IGNORE,
    Encoded,
    Stretch,
    encode,
    encode_rows,
    fitting_prompt,
    owners,
    prompt_ids,
    stretches,
    texts_to_read,
)
from lmkit.errors import PromptTooLong, RecordError, RecordErrors, TokenizerError
from lmkit.formatting import PLAIN, Segment
from lmkit.records import Row
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import parse_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"

SHARED_NAMES = ("gpt2", "qwen2", "smollm2", "t5", "bert-base-uncased", "koelectra-wordpiece")


def task(formatter, **options):
    return lk.Task(
        name="t",
        formatter=formatter,
        collator=lk.CausalCollator(**options),
        decoder=lk.TextDecoder(),
    )


QA = task(lk.context("{q}") + lk.target("{a}"))


class TestStretches:
    def test_split_where_learning_starts_and_stops(self, toy):
        segments = [Segment("ab"), Segment("c", learn=True), Segment("d", learn=True), Segment("e")]

        assert stretches(segments, toy) == [
            Stretch(toy.encode("ab"), learn=False),
            Stretch(toy.encode("cd"), learn=True),
            Stretch(toy.encode("e"), learn=False),
        ]

    def test_merge_tokens_within_a_stretch_and_never_over_its_edge(self, load_shared):
        tokenizer = load_shared("gpt2")
        together = stretches([Segment("hel"), Segment("lo")], tokenizer)
        apart = stretches([Segment("hel"), Segment("lo", learn=True)], tokenizer)

        assert together[0].ids == tokenizer.encode("hello")
        assert [stretch.ids for stretch in apart] == [
            tokenizer.encode("hel"),
            tokenizer.encode("lo"),
        ]

    def test_an_empty_segment_of_the_other_kind_is_a_seam(self, load_shared):
        tokenizer = load_shared("gpt2")
        parts = stretches([Segment("hel"), Segment("", learn=True), Segment("lo")], tokenizer)

        assert [stretch.ids for stretch in parts] == [
            tokenizer.encode("hel"),
            [],
            tokenizer.encode("lo"),
        ]

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_a_later_one_gets_no_opening_space(self, kind):
        tokenizer = Tokenizer.load(llama(kind))
        read, learned = stretches([Segment("yo"), Segment("hi", learn=True)], tokenizer)

        assert tokenizer.decode(read.ids + learned.ids) == "yohi"

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_an_empty_first_one_leaves_the_opening_space_to_the_next(self, kind):
        tokenizer = Tokenizer.load(llama(kind))
        parts = stretches([Segment(""), Segment("hi", learn=True)], tokenizer)

        assert parts[1].ids == tokenizer.encode("hi")

    @pytest.mark.parametrize("kind", LLAMAS)
    def test_after_a_control_token_are_what_the_library_makes_of_the_whole(self, kind):
        """Llama's older tokenizers put a space behind every control token, an answer's first too."""
        backend = llama(kind)
        tokenizer = Tokenizer.load(backend)
        segments = [
            Segment("yo<s>", trusted=True),
            Segment("hi", learn=True),
            Segment("</s>", trusted=True, learn=True),
        ]
        ids = [i for stretch in stretches(segments, tokenizer) for i in stretch.ids]

        assert ids == backend.encode("yo<s>hi</s>", add_special_tokens=False).ids


class TestLabels:
    def test_stand_at_their_own_tokens_and_are_never_shifted(self, toy):
        row = encode(QA, [{"q": "ab", "a": "cd"}], toy)[0]

        assert row.input_ids.tolist() == [*toy.encode("abcd"), toy.eos_id]
        assert row.labels.tolist() == [IGNORE, IGNORE, *toy.encode("cd"), toy.eos_id]

    def test_are_counted_where_something_precedes_them(self, toy):
        """The model's head shifts: a first token has nothing to predict it from."""
        with_prompt = encode(QA, [{"q": "ab", "a": "cd"}], toy)[0]
        without = encode(task(lk.target("{a}")), [{"a": "cd"}], toy)[0]

        assert with_prompt.n_learned == 3
        assert without.n_learned == 2

    def test_and_ids_are_int64(self, toy):
        row = encode(QA, [{"q": "ab", "a": "cd"}], toy)[0]

        assert row.input_ids.dtype == row.labels.dtype == np.int64
        assert prompt_ids(QA, {"q": "ab"}, toy).dtype == np.int64

    def test_learn_the_end_of_the_answer_although_it_is_the_padding_too(self, toy):
        padded = toy.with_special("pad_token", toy.special["eos_token"])
        rows = encode(QA, [{"q": "a", "a": "b"}, {"q": "a", "a": "bbbb"}], padded)
        batch = QA.collator.collate(rows, padded.pad_id)

        assert batch["labels"][0].tolist() == [
            IGNORE, *toy.encode("b"), toy.eos_id, IGNORE, IGNORE, IGNORE
        ]  # fmt: skip

    def test_learn_an_empty_answer_as_ending_at_once(self, toy):
        row = encode(QA, [{"q": "a", "a": ""}], toy)[0]

        assert row.labels.tolist() == [IGNORE, toy.eos_id]

    def test_learn_no_second_end_where_the_template_wrote_one(self, toy):
        written = task(lk.context("{q}") + lk.target("{a}<|endoftext|>"))
        row = encode(written, [{"q": "a", "a": "b"}], toy)[0]

        assert row.input_ids.tolist() == [*toy.encode("ab"), toy.eos_id]

    def test_learn_an_end_besides_the_one_that_a_record_spells_out(self, toy):
        row = encode(QA, [{"q": "a", "a": "<|endoftext|>"}], toy)[0]

        assert row.input_ids.tolist() == [*toy.encode("a<|endoftext|>"), toy.eos_id]
        assert (row.input_ids == toy.eos_id).sum() == 1

    def test_need_an_end_token(self, toy):
        without = Tokenizer(toy.definition)

        with pytest.raises(TokenizerError, match="could never learn to stop"):
            encode(QA, [{"q": "a", "a": "b"}], without)


class TestTheBeginningOfText:
    def test_is_put_once_before_a_row_and_its_prompt_and_not_learned(self, toy_with_bos):
        row = encode(QA, [{"q": "ab", "a": "c"}], toy_with_bos)[0]

        assert row.input_ids[0] == toy_with_bos.bos_id
        assert row.labels[0] == IGNORE
        assert (row.input_ids == toy_with_bos.bos_id).sum() == 1
        assert prompt_ids(QA, {"q": "ab"}, toy_with_bos).tolist() == row.input_ids[:3].tolist()

    def test_is_not_doubled_where_the_template_writes_it(self, toy_with_bos):
        written = task(lk.context("<s>{q}") + lk.target("{a}"))
        row = encode(written, [{"q": "ab", "a": "c"}], toy_with_bos)[0]

        assert (row.input_ids == toy_with_bos.bos_id).sum() == 1
        assert prompt_ids(written, {"q": "ab"}, toy_with_bos).tolist() == row.input_ids[:3].tolist()

    def test_is_not_doubled_where_a_record_spells_it_out(self, toy_with_bos):
        row = encode(QA, [{"q": "<s>", "a": "c"}], toy_with_bos)[0]

        assert (row.input_ids == toy_with_bos.bos_id).sum() == 1
        assert row.input_ids.tolist()[1:4] == toy_with_bos.encode("<s>")


BOUNDARIES = {
    "a plain seam": ("Question", "answer"),
    "a seam inside a word": ("hel", "lo"),
    "an answer that begins with a space": ("Q:", " answer"),
    "an answer that begins with a newline": ("Q:", "\n\nanswer"),
    "a prompt that ends with a space": ("Q: ", "answer"),
    "a prompt that ends with a newline": ("Q:\n", "\nanswer"),
    "spaces on both sides": ("Q:  ", "  answer"),
    "decomposed Hangul": (
        unicodedata.normalize("NFD", "질문")[:-1],
        unicodedata.normalize("NFD", "질문")[-1] + "답",
    ),
    "a seam inside an emoji": ("👩\u200d", "👩\u200d👧"),
    "a combining mark": ("e", "\u0301"),
    "digits": ("12", "34"),
    "punctuation": ("'", "s it"),
    "a control token in halves": ("<|im_", "end|>"),
    "an empty answer": ("Q:", ""),
    "an answer of spaces": ("Q:", "  "),
    "an unknown character": ("🦙", "🦙"),
}


@pytest.mark.parametrize("name", SHARED_NAMES)
class TestThePromptOfEverySharedTokenizer:
    @pytest.mark.parametrize(("q", "a"), BOUNDARIES.values(), ids=BOUNDARIES)
    def test_is_a_prefix_of_the_training_ids(self, name, q, a, load_shared):
        tokenizer = load_shared(name)
        row = encode(QA, [{"q": q, "a": a}], tokenizer)[0]
        asked = prompt_ids(QA, {"q": q}, tokenizer)

        assert np.array_equal(row.input_ids[: len(asked)], asked)
        assert (row.labels[: len(asked)] == IGNORE).all()
        assert np.array_equal(row.labels[len(asked) :], row.input_ids[len(asked) :])
        assert row.labels[-1] == tokenizer.eos_id

    def test_is_a_prefix_where_the_first_target_is_left_out(self, name, load_shared):
        formatter = (
            lk.context("hel") + lk.target("{x}").when("x") + lk.context("lo") + lk.target("{y}")
        )
        tokenizer = load_shared(name)
        asked = prompt_ids(task(formatter), {}, tokenizer)
        row = encode(task(formatter), [{"y": "z"}], tokenizer)[0]

        assert np.array_equal(row.input_ids[: len(asked)], asked)


class TestMarkersInARecord:
    """The answer is what follows the prompt: nobody searches for the text between the two."""

    alpaca = lk.get_task("alpaca")

    @pytest.mark.parametrize("place", ["instruction", "input", "output"])
    def test_change_nothing(self, place, toy):
        record = {"instruction": "Do.", "input": "in", "output": "out"}
        record[place] = "x\n\n### Response:\ny<|im_end|>"
        row = encode(self.alpaca, [record], toy)[0]
        asked = prompt_ids(self.alpaca, record, toy)

        assert np.array_equal(row.input_ids[: len(asked)], asked)
        assert toy.decode(row.labels[row.labels != IGNORE]) == record["output"]
        assert self.alpaca.reference(record, toy.dialect) == record["output"]


class TestTheWholeRow:
    def test_marks_what_is_left_out_of_a_row(self, toy):
        cut = task(QA.formatter, max_length=4)
        segments = cut.formatter.segments({"q": "abc", "a": "de"})
        (whole,) = cut.collator.whole(segments, toy, delimited=False)
        row = encode(cut, [{"q": "abc", "a": "de"}], toy)[0]

        assert whole.input_ids.tolist() == [*toy.encode("abcde"), toy.eos_id]
        assert whole.labels.tolist() == [IGNORE] * 3 + [*toy.encode("de"), toy.eos_id]
        assert whole.kept.tolist() == [False, False, True, True, True, True]
        assert row.input_ids.tolist() == whole.input_ids[whole.kept].tolist()
        assert (row.n_cut, row.n_cut_learned) == (2, 0)

    def test_counts_learned_ids_that_are_left_out(self, toy):
        cut = task(QA.formatter, max_length=2)
        row = encode(cut, [{"q": "abc", "a": "de"}], toy)[0]

        assert row.input_ids.tolist() == [*toy.encode("e"), toy.eos_id]
        assert (row.n_cut, row.n_cut_learned) == (4, 1)

    def test_of_a_seq2seq_task_is_source_and_target(self, load_shared):
        tokenizer = load_shared("t5")
        collator = lk.Seq2SeqCollator(max_source_length=4, max_target_length=3)
        segments = QA.formatter.segments({"q": "a long source to read", "a": "a long target"})
        source, target = collator.whole(segments, tokenizer, delimited=False)
        row = collator.encode(segments, tokenizer, delimited=False)

        assert tokenizer.decode(source.input_ids) == "a long source to read"
        assert tokenizer.decode(target.labels) == "a long target"
        assert source.input_ids[source.kept].tolist() == row.input_ids.tolist()
        assert target.labels[target.kept].tolist() == row.labels.tolist()
        assert row.n_cut == source.n_cut + target.n_cut
        assert row.n_cut_learned == target.n_cut

    def test_of_a_masked_task_keeps_its_frame(self, load_shared):
        tokenizer = load_shared("bert-base-uncased")
        collator = lk.MaskedCollator(max_length=4)
        (whole,) = collator.whole([Segment("one two three")], tokenizer, delimited=False)

        assert whole.kept.tolist() == [True, True, True, False, True]
        assert whole.labels[[0, -1]].tolist() == [IGNORE, IGNORE]

    def test_of_a_long_text_is_never_cut(self, toy):
        (whole,) = lk.BlockCollator(block_size=2).whole(
            [Segment("abcdef", learn=True)], toy, delimited=False
        )

        assert whole.kept.all()
        assert whole.labels.tolist() == toy.encode("abcdef")


class TestManyRecords:
    records: ClassVar = [
        {"q": f"질문 {n}: what is {n} and {n}?", "a": f" 답 {2 * n} 🙂"} for n in range(50)
    ]

    @pytest.mark.parametrize("name", [*SHARED_NAMES, "char", *LLAMAS])
    @pytest.mark.parametrize("collator", [lk.CausalCollator(max_length=20), lk.Seq2SeqCollator()])
    def test_get_the_rows_that_each_gets_alone(self, collator, name, load_shared):
        if name in LLAMAS:
            tokenizer = Tokenizer.load(llama(name)).with_special("eos_token", "</s>")
        elif name == "char":
            tokenizer = parse_tokenizer("char", self.records)
        else:
            tokenizer = load_shared(name)
        both = task(QA.formatter).evolve(collator=collator)
        segments = [both.formatter.segments(record) for record in self.records]
        alone = [collator.encode(each, tokenizer, delimited=False) for each in segments]

        for row, own in zip(encode(both, self.records, tokenizer), alone, strict=True):
            assert row.input_ids.tolist() == own.input_ids.tolist()
            assert row.labels.tolist() == own.labels.tolist()
            assert (row.n_cut, row.n_cut_learned) == (own.n_cut, own.n_cut_learned)

    def test_are_read_as_far_as_rows_are_asked_for(self, monkeypatch, toy):
        monkeypatch.setattr("lmkit.encoding.AT_ONCE", 4)
        records = iter(self.records)
        next(encode_rows(QA, records, toy))

        assert len(list(records)) == len(self.records) - 4

    def test_are_told_of_in_order_where_they_are_bad(self, monkeypatch, load_shared):
        monkeypatch.setattr("lmkit.encoding.AT_ONCE", 4)
        never = task(lk.context("{q}").cut("never") + lk.target("{a}"), max_length=12)
        records = [{"q": "질문 " * 20 * (n % 2), "a": "b"} if n % 3 else {} for n in range(10)]
        told = []
        rows = list(encode_rows(never, records, load_shared("gpt2"), on_bad_row=told.append))

        assert [error.where for error in told] == [f"record {n}" for n in (0, 1, 3, 5, 6, 7, 9)]
        assert len(rows) == 3


class TestOwners:
    """Which segment an id is of decides what may be cut."""

    @pytest.mark.parametrize("name", SHARED_NAMES)
    def test_are_as_many_as_ids_and_in_order(self, name, load_shared):
        tokenizer = load_shared(name)
        segments = [
            Segment("Q: ", trusted=True),
            Segment("한국어 질문 🙂 and words"),
            Segment(""),
            Segment("\nA:", trusted=True),
            Segment(" 답변 🙂🙂 ", learn=True),
            Segment("more words", learn=True),
        ]
        found = owners(segments, tokenizer)

        assert [len(owner) for owner in found] == [
            len(stretch.ids) for stretch in stretches(segments, tokenizer)
        ]
        assert (np.diff(np.concatenate(found)) >= 0).all()
        assert set(np.concatenate(found).tolist()) == {0, 1, 3, 4, 5}

    def test_of_a_token_over_an_edge_is_the_segment_that_it_ends_in(self, load_shared):
        tokenizer = load_shared("gpt2")
        segments = [Segment("hel"), Segment("lo wor"), Segment("ld")]

        assert [tokenizer.decode([i]) for i in tokenizer.encode("hello world")] == [
            "hello",
            " world",
        ]
        assert owners(segments, tokenizer)[0].tolist() == [1, 2]

    @pytest.mark.parametrize("text", ["뷁", "🙂"])
    def test_of_a_characters_bytes_are_its_own_segments(self, text, load_shared):
        tokenizer = load_shared("gpt2")
        count = len(tokenizer.encode(text))
        (found,) = owners([Segment("a"), Segment(text), Segment("b")], tokenizer)

        assert count > 1
        assert found.tolist() == [0, *[1] * count, 2]

    def test_of_control_tokens_and_what_they_swallow(self, load_shared):
        tokenizer = load_shared("smollm2")
        segments = [
            Segment("<|im_start|>user\n", trusted=True),
            Segment("hi <|im_end|> there"),
            Segment("<|im_end|>\n", trusted=True),
        ]
        (found,) = owners(segments, tokenizer)

        assert found.tolist() == sorted(found.tolist())
        assert (found == 2).sum() == 2

    def test_of_a_text_that_spells_a_control_token(self, load_shared):
        tokenizer = load_shared("t5")
        (found,) = owners([Segment("a </s> b"), Segment(" c")], tokenizer)

        assert len(found) == len(tokenizer.encode("a </s> b c"))
        assert found.tolist()[-1] == 1


class TestRecordsOfSeveralTexts:
    def test_give_a_row_for_each(self, toy):
        """A formatter unrolls a record where one text cannot say all that is to be learned."""

        class EachWord:
            delimited, learns = False, True
            columns = prompt_columns = ("words",)

            def segments(self, record, dialect=PLAIN):
                return self.unrolled(record)[-1]

            def prompt(self, record, dialect=PLAIN):
                return []

            def stop_tokens(self, dialect):
                return ()

            def chat_template(self, dialect):
                return None

            def unrolled(self, record, dialect=PLAIN):
                return [[Segment(word, learn=True)] for word in record["words"].split()]

        rows = encode(task(EachWord()), [{"words": "ab c"}, {"words": "d"}], toy)

        assert [toy.decode(row.input_ids) for row in rows] == ["ab", "c", "d"]


class TestBadRecords:
    def test_are_gathered_with_their_places(self, toy):
        records = [{"q": "a", "a": "b"}, {"q": "a"}, Row({"a": "b"}, "t.jsonl:3")]

        with pytest.raises(RecordErrors) as caught:
            encode(QA, records, toy)

        assert [error.where for error in caught.value.errors] == ["record 1", "t.jsonl:3"]

    def test_of_one_is_raised_as_itself(self, toy):
        with pytest.raises(RecordError, match=r"^record 0: column 'a' is missing"):
            encode(QA, [{"q": "a"}], toy)

    def test_of_many_stop_at_ten(self, toy):
        with pytest.raises(RecordErrors, match="10 or more bad rows"):
            encode(QA, [{"q": "a"}] * 50, toy)

    def test_are_left_out_where_someone_is_told_of_them(self, toy):
        records = [{"q": "a", "a": "b"}, {"q": "a"}, {"q": "b", "a": "c"}, *[{}] * 20]
        told = []
        rows = list(encode_rows(QA, records, toy, on_bad_row=told.append))

        assert [row.input_ids.tolist() for row in rows] == [
            [*toy.encode("ab"), toy.eos_id],
            [*toy.encode("bc"), toy.eos_id],
        ]
        assert [error.where for error in told] == [
            "record 1",
            *[f"record {3 + i}" for i in range(20)],
        ]

    def test_without_an_answer_have_nothing_to_learn(self, toy):
        formatter = lk.context("{q}") + lk.target("{a}").when("a")

        with pytest.raises(RecordError, match="nothing in it is learned"):
            encode(task(formatter), [{"q": "a"}], toy)

    def test_of_a_prompt_are_named_too(self, toy):
        with pytest.raises(RecordError, match=r"^t\.jsonl:3: column 'q' is missing"):
            prompt_ids(QA, Row({}, "t.jsonl:3"), toy)

    def test_of_an_empty_prompt_are_refused(self, toy):
        with pytest.raises(RecordError, match="the prompt is empty"):
            prompt_ids(QA, {"q": ""}, toy)


@pytest.mark.parametrize("kind", LLAMAS)
def test_a_row_of_llamas_make_decodes_to_its_text(kind):
    tokenizer = Tokenizer.load(llama(kind)).with_special("eos_token", "</s>")
    for q, a in BOUNDARIES.values():
        row = encode(QA, [{"q": q, "a": a}], tokenizer)[0]

        assert tokenizer.decode(row.input_ids) == q + a


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "smollm2"])
def test_a_row_of_a_lossless_tokenizer_decodes_to_its_text(name, load_shared):
    tokenizer = load_shared(name)
    for q, a in BOUNDARIES.values():
        row = encode(QA, [{"q": q, "a": a}], tokenizer)[0]

        assert tokenizer.decode(row.input_ids) == q + a


class TestTextsToRead:
    @staticmethod
    def rows(*texts):
        return [Encoded(np.array(text), np.array(text)) for text in texts]

    @staticmethod
    def read(rows):
        texts, which = texts_to_read(rows)
        return [text.tolist() for text in texts], which

    def test_leave_out_each_rows_last_token(self):
        assert self.read(self.rows([1, 2, 3], [4, 5])) == ([[1, 2], [4]], [0, 1])

    def test_are_one_for_rows_that_part_at_their_last_token(self):
        assert self.read(self.rows([1, 2, 3], [1, 2, 4])) == ([[1, 2]], [0, 0])

    def test_are_one_for_a_row_that_another_begins_with(self):
        assert self.read(self.rows([1, 2], [1, 3, 4, 5], [1, 3, 6])) == ([[1, 3, 4]], [0, 0, 0])

    def test_are_several_where_rows_part_earlier_the_longest_first(self):
        assert self.read(self.rows([1, 2, 3], [1, 4, 5, 6])) == ([[1, 4, 5], [1, 2]], [1, 0])

    def test_keep_a_row_of_one_token(self):
        assert self.read(self.rows([7])) == ([[7]], [0])


@pytest.fixture(scope="module")
def wordy():
    """A tokenizer with a token of 26 letters."""
    return lk.train_tokenizer(kind="bpe", vocab_size=400, data=[{"text": f"{LETTERS} " * 50}])


class TestFittingPrompt:
    TASK = lk.get_task("qa")
    MOST = 64

    def test_that_is_far_too_long_is_refused_before_the_whole_is_encoded(self, wordy, monkeypatch):
        encoded = []
        encode_spans = Tokenizer.encode_spans
        monkeypatch.setattr(
            Tokenizer,
            "encode_spans",
            lambda self, spans, **named: (
                encoded.extend(len(span.text) for span in spans)
                or encode_spans(self, spans, **named)
            ),
        )

        with pytest.raises(PromptTooLong, match=r"has \d+ tokens or more and .* holds 64") as told:
            fitting_prompt(self.TASK, {"prompt": "안" * 10**6}, wordy, most=self.MOST)

        assert sum(encoded) < 1000
        assert told.value.where == "record 0"

    def test_of_many_letters_fits_where_they_are_few_tokens(self, wordy):
        record = {"prompt": f"{LETTERS} " * 40}

        ids = fitting_prompt(self.TASK, record, wordy, most=self.MOST)

        assert len(record["prompt"]) > 16 * self.MOST
        assert ids.tolist() == prompt_ids(self.TASK, record, wordy).tolist()
