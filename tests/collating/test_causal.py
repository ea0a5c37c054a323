import numpy as np
import pytest

import lmkit as lk
from lmkit.collating import Collator
from lmkit.collating.causal import CausalCollator
from lmkit.encoding import IGNORE, Encoded, encode
from lmkit.errors import TaskError, UnknownOption
from lmkit.family import Family
from lmkit.formatting import Segment

ROWS = [
    Encoded(np.array([5, 6, 7]), np.array([IGNORE, 6, 7])),
    Encoded(np.array([8]), np.array([8])),
]


def cut(segments, toy, max_length, *, delimited=False):
    row = CausalCollator(max_length=max_length).encode(segments, toy, delimited=delimited)
    return row, toy.decode(row.input_ids, skip_control=False)


class TestABatch:
    def test_is_padded_on_the_right_to_its_longest_row(self):
        batch = CausalCollator().collate(ROWS, pad_id=0)

        assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert batch["labels"].tolist() == [[IGNORE, 6, 7], [8, IGNORE, IGNORE]]

    def test_ignores_padding_by_its_place_and_not_by_its_id(self):
        batch = CausalCollator().collate(ROWS, pad_id=7)

        assert batch["labels"].tolist() == [[IGNORE, 6, 7], [8, IGNORE, IGNORE]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]

    def test_is_int64(self):
        batch = CausalCollator().collate(ROWS, pad_id=0)

        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}

    def test_is_as_wide_as_a_multiple_that_was_asked_for(self):
        batch = CausalCollator(pad_to_multiple_of=8).collate(ROWS, pad_id=0)

        assert batch["input_ids"].shape == (2, 8)
        assert batch["attention_mask"].sum() == 4


class TestTruncation:
    def test_leaves_a_row_that_just_fits(self, toy):
        row, text = cut([Segment("abc"), Segment("de", learn=True)], toy, 6)

        assert text == "abcde<|endoftext|>"
        assert row.n_cut == 0

    def test_cuts_the_context_from_the_left(self, toy):
        row, text = cut([Segment("abc"), Segment("de", learn=True)], toy, 5)

        assert text == "bcde<|endoftext|>"
        assert row.n_cut == 1
        assert row.labels.tolist() == [IGNORE, IGNORE, *toy.encode("de"), toy.eos_id]

    def test_never_cuts_the_end_of_the_answer(self, toy):
        row, text = cut([Segment("abc"), Segment("defg", learn=True)], toy, 3)

        assert text == "fg<|endoftext|>"
        assert row.n_cut == 5

    def test_cuts_what_follows_the_answer_first_and_no_more_than_needed(self, toy):
        segments = [Segment("ab"), Segment("c<|im_end|>", learn=True, trusted=True), Segment("xyz")]
        row, text = cut(segments, toy, 5, delimited=True)

        assert text == "abc<|im_end|>x"
        assert row.n_cut == 2

    def test_counts_what_it_cut_on_both_sides(self, toy):
        segments = [Segment("ab"), Segment("c<|im_end|>", learn=True, trusted=True), Segment("xyz")]
        row, text = cut(segments, toy, 3, delimited=True)

        assert text == "bc<|im_end|>"
        assert row.n_cut == 4

    def test_keeps_the_beginning_of_text(self, toy_with_bos):
        row, text = cut([Segment("abc"), Segment("d", learn=True)], toy_with_bos, 4)

        assert text == "<s>cd<|endoftext|>"
        assert row.labels[0] == IGNORE
        assert row.n_cut == 2

    @pytest.mark.parametrize("max_length", range(2, 12))
    def test_keeps_the_last_learned_token_and_the_limit_at_any_length(self, max_length, toy):
        task = lk.get_task("qa").evolve(collator=CausalCollator(max_length))
        row = encode(task, [{"prompt": "a long question", "completion": "yes"}], toy)[0]

        assert len(row) == max_length
        assert row.labels[-1] == toy.eos_id

    def test_never_cuts_a_prompt(self, toy):
        asked = CausalCollator(2).prompt([Segment("abcdef")], toy, delimited=False)

        assert toy.decode(asked) == "abcdef"


class TestTheCollator:
    def test_is_one(self):
        assert isinstance(CausalCollator(), Collator)
        assert CausalCollator().family is Family.CAUSAL

    @pytest.mark.parametrize("length", [0, 1, -5, 2.5, "8", True, None])
    def test_refuses_a_length_that_holds_no_prompt_and_answer(self, length):
        with pytest.raises(TaskError, match=r"max_length is .* expected a whole number of 2"):
            CausalCollator(max_length=length)

    def test_refuses_a_misspelt_argument_with_the_near_name(self):
        with pytest.raises(UnknownOption, match="close to: max_length"):
            CausalCollator(max_lenght=8)

    def test_prints_what_differs_from_the_defaults(self):
        assert repr(CausalCollator(max_length=8)) == "CausalCollator(max_length=8)"
        assert repr(CausalCollator()) == "CausalCollator()"
