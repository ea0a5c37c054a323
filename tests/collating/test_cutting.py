"""What of a row goes where it is too long is the formatter's to say."""

from __future__ import annotations

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.errors import RecordError
from lmkit.formatting import Cut, Segment

RECORD = {"name": "abc", "text": "defghijk", "answer": "xyz"}
ANSWER = lk.target("{answer}")


def row(formatter, tokenizer, max_length, record=RECORD):
    """Return what is left of a row, as text without its EOS, and the row."""
    task = lk.Task(
        name="t",
        formatter=formatter,
        collator=lk.CausalCollator(max_length=max_length),
        decoder=lk.TextDecoder(),
    )
    found = encode(task, [record], tokenizer)[0]
    assert found.input_ids[-1] == found.labels[-1] == tokenizer.eos_id
    assert len(found) + found.n_cut == 1 + len("".join(map(str, record.values())))
    return tokenizer.decode(found.input_ids), found


def left(formatter, tokenizer, max_length):
    return row(formatter, tokenizer, max_length)[0]


class TestACausalRow:
    """The toy has a token a character, and an EOS: the row has 3 + 8 + 3 + 1 of them."""

    plain = lk.context("{name}") + lk.context("{text}") + ANSWER

    def test_loses_its_left_where_nothing_is_said(self, toy):
        assert left(self.plain, toy, 15) == "abcdefghijkxyz"
        assert left(self.plain, toy, 10) == "fghijkxyz"
        assert left(self.plain, toy, 3) == "yz"

    def test_loses_first_what_is_said_to_be_cut(self, toy):
        formatter = lk.context("{name}") + lk.context("{text}").cut("left") + ANSWER

        assert left(formatter, toy, 10) == "abcijkxyz"

    def test_loses_the_right_of_what_says_so(self, toy):
        formatter = lk.context("{name}") + lk.context("{text}").cut("right") + ANSWER

        assert left(formatter, toy, 10) == "abcdefxyz"

    def test_loses_then_what_says_nothing(self, toy):
        formatter = lk.context("{name}") + lk.context("{text}").cut("right") + ANSWER

        assert left(formatter, toy, 6) == "bcxyz"

    def test_loses_a_whole_piece_or_nothing_of_it(self, toy):
        formatter = lk.context("{name}").cut("whole") + lk.context("{text}") + ANSWER

        assert left(formatter, toy, 14) == "defghijkxyz"
        assert left(formatter, toy, 11) == "efghijkxyz"

    def test_loses_what_is_of_a_lower_order_first(self, toy):
        formatter = (
            lk.context("{name}").cut("right", order=-1)
            + lk.context("{text}").cut("right", order=-2)
            + ANSWER
        )

        assert left(formatter, toy, 9) == "abcdexyz"
        assert left(formatter, toy, 6) == "abxyz"

    def test_keeps_the_words_around_a_column_as_long_as_it_can(self, toy):
        record = {"text": "defgh", "answer": "x"}
        formatter = lk.context("ab{text}c").cut("right") + ANSWER
        task = lk.Task(
            name="t",
            formatter=formatter,
            collator=lk.CausalCollator(max_length=7),
            decoder=lk.TextDecoder(),
        )

        assert toy.decode(encode(task, [record], toy)[0].input_ids) == "abdecx"

    def test_loses_a_whole_piece_with_the_words_around_it(self, toy):
        record = {"hint": "h", "answer": "x"}
        formatter = lk.context("ab") + lk.context("c{hint}d").cut("whole") + ANSWER
        task = lk.Task(
            name="t",
            formatter=formatter,
            collator=lk.CausalCollator(max_length=6),
            decoder=lk.TextDecoder(),
        )

        assert toy.decode(encode(task, [record], toy)[0].input_ids) == "abx"

    def test_keeps_what_is_never_to_be_cut(self, toy):
        formatter = lk.context("{name}").cut("never") + lk.context("{text}") + ANSWER

        assert left(formatter, toy, 8) == "abckxyz"
        assert left(formatter, toy, 5) == "abcz"

    def test_is_refused_where_too_much_is_never_to_be_cut(self, toy):
        formatter = lk.context("{name}").cut("never") + lk.context("{text}") + ANSWER

        with pytest.raises(RecordError, match="record 0: 'abc' is never to be cut, so 4 of its"):
            left(formatter, toy, 3)

    def test_always_keeps_the_end_of_the_answer(self, toy):
        formatter = lk.context("{name}{text}").cut("never") + lk.target("{answer}").cut("whole")
        text, found = row(formatter, toy, 12)

        assert text == "abcdefghijk"
        assert found.n_cut_learned == 3

    @pytest.mark.parametrize(("max_length", "text"), [(8, "abcxyzd"), (7, "abcxyz"), (6, "bcxyz")])
    def test_loses_what_follows_the_answer_before_all_else(self, max_length, text, toy):
        said = Cut("left", order=-1)
        segments = [Segment("abc", cut=said), Segment("xyz", learn=True), Segment("def")]
        collator = lk.CausalCollator(max_length=max_length)

        assert toy.decode(collator.encode(segments, toy, delimited=False).input_ids) == text

    def test_counts_what_it_lost_and_what_of_it_was_learned(self, toy):
        _, found = row(self.plain, toy, 3)

        assert (found.n_cut, found.n_cut_learned) == (12, 1)

    def test_has_its_prompt_whole_at_inference(self, toy):
        formatter = lk.context("{name}") + lk.context("{text}").cut("right") + ANSWER
        task = lk.Task(
            name="t",
            formatter=formatter,
            collator=lk.CausalCollator(max_length=8),
            decoder=lk.TextDecoder(),
        )

        assert toy.decode(prompt_ids(task, RECORD, toy)) == "abcdefghijk"

    @pytest.mark.parametrize("name", ["gpt2", "qwen2", "smollm2", "t5", "koelectra-wordpiece"])
    def test_of_real_tokenizers_keeps_the_question(self, name, load_shared):
        tokenizer = load_shared(name)
        formatter = (
            lk.context("요약: {text}\n").cut("right") + lk.context("질문?") + lk.target(" {answer}")
        )
        task = lk.Task(
            name="t",
            formatter=formatter,
            collator=lk.CausalCollator(max_length=48),
            decoder=lk.TextDecoder(),
        )
        record = {"text": "긴 문서 🙂 " * 60, "answer": "답"}
        (whole,) = task.collator.whole(
            formatter.segments(record), tokenizer, delimited=formatter.delimited
        )
        gone = np.flatnonzero(~whole.kept)

        assert whole.kept.sum() == 48
        assert (np.diff(gone) == 1).all()
        assert len(tokenizer.encode("요약: ")) - 1 <= gone[0] < gone[-1] < len(whole.kept) - 4
        assert whole.labels[-1] == tokenizer.eos_id


class TestASeq2SeqRow:
    def cut(self, formatter, tokenizer, source, target=8):
        collator = lk.Seq2SeqCollator(max_source_length=source, max_target_length=target)
        segments = formatter.segments({"q": "one two three four", "a": "five six seven"})
        return collator.encode(segments, tokenizer, delimited=False)

    def test_loses_its_right_where_nothing_is_said(self, load_shared):
        tokenizer = load_shared("t5")
        found = self.cut(lk.context("{q}") + lk.target("{a}"), tokenizer, source=3, target=3)

        assert tokenizer.decode(found.input_ids) == "one two"
        assert tokenizer.decode(found.labels) == "five six"
        assert found.input_ids[-1] == found.labels[-1] == tokenizer.eos_id
        assert (found.n_cut, found.n_cut_learned) == (3, 1)

    def test_loses_the_left_of_what_says_so(self, load_shared):
        tokenizer = load_shared("t5")
        formatter = lk.context("sum: ") + lk.context("{q}").cut("left") + lk.target("{a}")
        found = self.cut(formatter, tokenizer, source=5)

        assert tokenizer.decode(found.input_ids) == "sum: three four"

    def test_is_refused_where_its_source_must_stay(self, load_shared):
        formatter = lk.context("{q}").cut("never") + lk.target("{a}")

        with pytest.raises(RecordError, match="'one two three four' is never to be cut"):
            self.cut(formatter, load_shared("t5"), source=3)


class TestAMaskedRow:
    def test_loses_the_left_of_what_says_so_within_its_frame(self, load_shared):
        tokenizer = load_shared("bert-base-uncased")
        segments = [Segment("one two "), Segment("three four five", cut=Cut("left", order=-1))]
        found = lk.MaskedCollator(max_length=5).encode(segments, tokenizer, delimited=False)

        assert tokenizer.decode(found.input_ids) == "one two five"
        assert [tokenizer.id_to_token(found.input_ids[at]) for at in (0, -1)] == ["[CLS]", "[SEP]"]
        assert (found.labels == IGNORE).sum() == 2
