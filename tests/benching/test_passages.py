from pathlib import Path

import pytest

import lmkit as lk
from lmkit.benching.passages import prompts
from lmkit.errors import TaskError
from lmkit.family import Family

PASSAGE = Path(lk.__file__).parent / "benching" / "passage.txt"
CHARS = lk.train_tokenizer(kind="char", vocab_size=500, data=[{"t": PASSAGE.read_text("utf-8")}])


def test_a_prompt_has_exactly_as_many_ids_as_asked_for():
    for length in (1, 16, 5000):
        assert [len(ids) for ids in prompts(CHARS, length, 3)] == [length] * 3


def test_the_rows_of_a_batch_differ():
    rows = prompts(CHARS, 200, 64)

    assert len({tuple(row) for row in rows}) == 64


def test_the_rounds_have_texts_of_their_own():
    rows = [tuple(prompts(CHARS, 64, 2, turn=turn)[row]) for turn in range(6) for row in range(2)]

    assert len(set(rows)) == 12


def test_a_prompt_is_not_the_beginning_of_a_longer_one():
    (short,), (long,) = prompts(CHARS, 16), prompts(CHARS, 64)

    assert short != long[:16]


def test_a_repeating_text_begins_again_and_is_cut_midway():
    (ids,) = prompts(CHARS, 90, repeats=True)

    assert ids[60:] == ids[:30]


def test_prompts_are_the_same_every_time():
    assert prompts(CHARS, 3000, 2) == prompts(CHARS, 3000, 2)


def test_a_passage_does_not_repeat_itself():
    ids = prompts(CHARS, 3000)[0]
    ends = [tuple(ids[at : at + 24]) for at in range(len(ids) - 24)]

    assert len(set(ends)) == len(ends)


def test_a_tokenizer_that_can_write_no_sentence_gets_its_own_tokens():
    tokenizer = lk.train_tokenizer(kind="char", vocab_size=50, data=[{"t": "CNO()=#"}])
    (ids,) = prompts(tokenizer, 40)

    assert set(ids) <= set(tokenizer.plain_ids)
    assert len(set(ids)) > 1


def test_a_masked_text_has_a_mask_inside_its_frame():
    tokenizer = lk.train_tokenizer(
        kind="wordpiece", vocab_size=400, data=[{"text": PASSAGE.read_text("utf-8")}]
    )
    if tokenizer.mask_id is None:
        pytest.skip("the tokenizer has no mask")
    (ids,) = prompts(tokenizer, 20, family=Family.MASKED)

    assert ids.count(tokenizer.mask_id) == 1
    assert ids[: len(tokenizer.opening_ids)] == list(tokenizer.opening_ids)
    assert len(ids) == 20


def test_a_row_too_short_for_its_frame_is_refused():
    with pytest.raises(TaskError, match="no room for a text"):
        prompts(CHARS, 0)
