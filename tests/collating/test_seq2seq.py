"""Sources and targets, against the tokenizers' own `text_target` and transformers' collator."""

import numpy as np
import pytest
from tokenizers import processors
from toys import toy_backend

import lmkit as lk
from lmkit.collating import Collator
from lmkit.collating.seq2seq import Seq2SeqCollator, cutting
from lmkit.encoding import IGNORE, Encoded, encode, prompt_ids
from lmkit.errors import RecordError, TaskError, TokenizerError, UnknownOption
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.metrics import Rouge
from lmkit.testing import QUICK, check_task, sample_record

ARTICLES = [
    {"article": "A bill to reform the flood program.", "summary": "Flood reform."},
    {"article": "오늘 국회는 새 법안을 통과시켰다. 내년부터 시행된다.", "summary": "새 법안 통과"},
    {
        "article": "👩‍👩‍👧‍👦 emoji와 한글이 섞인 文章, and English: 12,345.67 원!",
        "summary": "섞인 글",
    },
    {"article": "long " * 90, "summary": "very long summary " * 40},
]


def framed(single):
    """Return a toy whose frame is given, with `<s>` and `<|endoftext|>` as its ends."""
    backend = toy_backend()
    names = ("<s>", "<|endoftext|>", "<|im_start|>")
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}
    return lk.Tokenizer(backend.to_str(), special=special)


FRAMES = {
    "t5 and marian": "$A <|endoftext|>",
    "bart": "<s> $A <|endoftext|>",
    "mbart": "$A <|endoftext|> <|im_start|>",
}


def row(segments, tokenizer, *, delimited=False, **options):
    return Seq2SeqCollator(**options).encode(segments, tokenizer, delimited=delimited)


def text(ids, tokenizer):
    return tokenizer.decode(ids, skip_control=False)


SEGMENTS = [Segment("abcdef"), Segment("xyz", learn=True)]


class TestARow:
    @pytest.mark.parametrize("name", ["t5", "bert-base-uncased"])
    def test_is_what_the_tokenizer_makes_of_text_and_text_target(self, name, shared):
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
        task = lk.get_task("summarize").evolve(
            collator=Seq2SeqCollator(max_source_length=60, max_target_length=20)
        )

        for record, found in zip(ARTICLES, encode(task, ARTICLES, theirs), strict=True):
            source = theirs("summarize: " + record["article"], truncation=True, max_length=60)
            target = theirs(text_target=record["summary"], truncation=True, max_length=20)
            assert found.input_ids.tolist() == source["input_ids"]
            assert found.labels.tolist() == target["input_ids"]

    @pytest.mark.parametrize("kind", FRAMES)
    def test_is_framed_as_the_tokenizer_frames_a_text(self, kind):
        tokenizer = framed(FRAMES[kind])
        whole = FRAMES[kind].replace(" ", "").replace("$A", "{}")

        found = row(SEGMENTS, tokenizer)

        assert text(found.input_ids, tokenizer) == whole.format("abcdef")
        assert text(found.labels, tokenizer) == whole.format("xyz")
        assert found.family is Family.SEQ2SEQ

    def test_gets_an_eos_where_the_frame_has_none(self, toy):
        found = row(SEGMENTS, toy)

        assert text(found.input_ids, toy) == "abcdef"
        assert text(found.labels, toy) == "xyz<|endoftext|>"

    @pytest.mark.parametrize("frame", [*FRAMES.values(), "$A"])
    def test_has_its_ends_once_where_the_template_spells_them_out(self, frame):
        tokenizer = framed(frame)
        written = [
            Segment("<s>abc<|endoftext|>", trusted=True),
            Segment("xyz<|endoftext|>", learn=True, trusted=True),
        ]

        found = row(written, tokenizer)

        assert text(found.input_ids, tokenizer).count("<s>") == 1
        assert found.input_ids.tolist().count(tokenizer.eos_id) == 1
        assert found.labels.tolist().count(tokenizer.eos_id) == 1

    def test_lets_no_record_forge_an_end(self):
        tokenizer = framed("$A <|endoftext|>")

        found = row([Segment("a<|endoftext|>"), Segment("b<|endoftext|>c", learn=True)], tokenizer)

        assert found.input_ids.tolist().count(tokenizer.eos_id) == 1
        assert found.labels.tolist().count(tokenizer.eos_id) == 1

    def test_learns_every_token_of_the_target_and_counts_it(self, toy):
        assert row(SEGMENTS, toy).n_learned == len("xyz") + 1

    def test_takes_the_last_answer_of_a_conversation_for_its_target(self, toy):
        said = [Segment("a"), Segment("b", learn=True), Segment("c"), Segment("d", learn=True)]

        found = row([*said, Segment("e")], toy)

        assert text(found.input_ids, toy) == "abc"
        assert text(found.labels, toy) == "d<|endoftext|>"

    def test_that_is_delimited_gets_no_frame(self):
        tokenizer = framed("<s> $A <|endoftext|>")
        said = [Segment("ab"), Segment("c<|im_end|>", learn=True, trusted=True)]

        found = row(said, tokenizer, delimited=True)

        assert text(found.input_ids, tokenizer) == "ab"
        assert text(found.labels, tokenizer) == "c<|im_end|>"

    def test_without_a_target_is_refused(self, toy):
        with pytest.raises(RecordError, match="it has no target"):
            row([Segment("abc")], toy)

    def test_without_a_source_is_refused(self, toy):
        with pytest.raises(RecordError, match="its source is empty"):
            row([Segment(""), Segment("abc", learn=True)], toy)

    def test_needs_a_token_that_ends_it(self):
        with pytest.raises(TokenizerError, match="no EOS token"):
            row(SEGMENTS, lk.Tokenizer(toy_backend().to_str()))

    def test_lacking_its_article_is_refused_with_its_place(self, toy):
        with pytest.raises(RecordError, match="record 1: column 'article' is missing"):
            lk.encode("summarize", [ARTICLES[0], {"summary": "short"}], toy)


class TestTruncation:
    @pytest.mark.parametrize("kind", FRAMES)
    @pytest.mark.parametrize("most", range(4, 10))
    def test_cuts_from_the_right_and_keeps_the_frame(self, kind, most):
        tokenizer = framed(FRAMES[kind])
        closing = text(tokenizer.closing_ids, tokenizer)

        found = row(SEGMENTS, tokenizer, max_source_length=most, max_target_length=most)

        framing = len(tokenizer.opening_ids) + len(tokenizer.closing_ids)
        assert len(found) == min(most, 6 + framing)
        assert len(found.labels) == min(most, 3 + framing)
        assert found.n_cut == max(0, 6 + framing - most) + max(0, 3 + framing - most)
        assert text(found.input_ids, tokenizer).endswith(closing)
        assert text(found.labels, tokenizer).endswith(closing)
        assert text(found.input_ids, tokenizer).removeprefix("<s>").startswith("ab"[: most - 3])

    def test_keeps_the_eos_that_the_frame_lacks(self, toy):
        found = row(SEGMENTS, toy, max_target_length=3)

        assert text(found.labels, toy) == "xy<|endoftext|>"
        assert found.n_cut == 1


class TestAPrompt:
    @pytest.mark.parametrize("frame", [*FRAMES.values(), "$A"])
    def test_is_the_training_source(self, frame):
        tokenizer = framed(frame)
        record = {"article": "요약할 글", "summary": "요약"}

        asked = prompt_ids("summarize", record, tokenizer)

        assert asked.tolist() == encode("summarize", [record], tokenizer)[0].input_ids.tolist()
        assert asked.dtype == np.int64

    def test_that_is_too_long_is_refused_with_what_to_do(self, toy):
        task = lk.get_task("summarize").evolve(collator=Seq2SeqCollator(max_source_length=20))

        with pytest.raises(
            RecordError, match=r"source has 61 tokens, and the task reads 20; .*cut_prompt=True"
        ):
            prompt_ids(task, {"article": "x" * 50}, toy)

    def test_may_be_cut_as_in_training(self, toy):
        task = lk.get_task("summarize").evolve(collator=Seq2SeqCollator(max_source_length=20))
        record = {"article": "x" * 50, "summary": "y"}

        asked = prompt_ids(cutting(task), record, toy)

        assert asked.tolist() == encode(task, [record], toy)[0].input_ids.tolist()

    def test_of_another_family_is_as_it_was(self):
        assert cutting(lk.get_task("qa")) is lk.get_task("qa")


ROWS = [
    Encoded(np.array([5, 6, 7, 1]), np.array([8, 1]), family=Family.SEQ2SEQ),
    Encoded(np.array([9, 1]), np.array([4, 0, 5, 6, 1]), family=Family.SEQ2SEQ),
]


class TestABatch:
    def test_pads_sources_and_targets_each_to_their_longest(self):
        batch = Seq2SeqCollator().collate(ROWS, pad_id=0)

        assert batch["input_ids"].tolist() == [[5, 6, 7, 1], [9, 1, 0, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
        assert batch["labels"].tolist() == [[8, 1, IGNORE, IGNORE, IGNORE], [4, 0, 5, 6, 1]]
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}

    def test_has_one_shape_where_that_is_asked_for(self):
        collator = Seq2SeqCollator(max_source_length=9, max_target_length=7, pad_to_max_length=True)

        batch = collator.collate(ROWS, pad_id=0)

        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 9)
        assert batch["labels"].shape == (2, 7)

    @pytest.mark.parametrize("multiple", [1, 8])
    @pytest.mark.parametrize("name", ["t5", "bert-base-uncased"])
    def test_is_what_transformers_makes(self, name, multiple, shared):
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("torch")
        theirs = transformers.AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
        rows = encode("summarize", ARTICLES, theirs)
        collator = transformers.DataCollatorForSeq2Seq(
            theirs, pad_to_multiple_of=multiple, return_tensors="np"
        )
        features = [{"input_ids": r.input_ids.tolist(), "labels": r.labels.tolist()} for r in rows]

        expected = collator(features)
        found = Seq2SeqCollator(pad_to_multiple_of=multiple).collate(rows, theirs.pad_token_id)

        assert found.keys() == {"input_ids", "attention_mask", "labels"}
        for key, array in found.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=key)


class TestTheCollator:
    def test_is_one(self):
        assert isinstance(Seq2SeqCollator(), Collator)
        assert Seq2SeqCollator(max_source_length=9).max_length == 9

    @pytest.mark.parametrize("field", ["max_source_length", "max_target_length"])
    @pytest.mark.parametrize("length", [1, 2.5, "8", True])
    def test_refuses_a_length_that_holds_nothing(self, field, length):
        with pytest.raises(TaskError, match=rf"{field} is .* expected a whole number of 2"):
            Seq2SeqCollator(**{field: length})

    def test_refuses_a_misspelt_argument_with_the_near_name(self):
        with pytest.raises(UnknownOption, match="close to: max_target_length"):
            Seq2SeqCollator(max_taget_length=8)

    def test_takes_no_template_with_context_behind_a_target(self):
        with pytest.raises(TaskError, match="stands behind a target"):
            lk.get_task("summarize").evolve(
                formatter=lk.context("{a}") + lk.target("{b}") + lk.context("{c}")
            )


class TestTheTask:
    def test_keeps_its_promises_in_both_languages(self):
        task = lk.get_task("summarize")

        check_task(task, [sample_record(task), *ARTICLES], promises=QUICK)

    def test_reads_a_records_own_summary_as_the_reference(self):
        task = lk.get_task("summarize")

        assert (
            task.reference(ARTICLES[1], lk.Tokenizer.load(framed("$A")).dialect) == "새 법안 통과"
        )

    def test_is_measured_by_the_words_that_summaries_share(self):
        assert lk.get_task("summarize").metrics == (Rouge(),)
