"""4-bit weights are rounded by what they multiply on texts that no perplexity is measured on."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import lmkit as lk
from lmkit.encoding import encode_rows
from lmkit.export.calibration import (
    CALIBRATION_TOKENS,
    LEAST_TOKENS,
    OWN_ROWS,
    OWN_TOKENS,
    calibration_texts,
    drawn,
    from_data,
)
from lmkit.export.measuring import n_measured, sample_of, shuffled
from lmkit.export.source import Source
from lmkit.registry import one_task

ROWS = [{"prompt": f"number {n}?", "completion": f"it is {n} " * 5} for n in range(240)]


@pytest.fixture(scope="module")
def task():
    return one_task("qa")


@pytest.fixture(scope="module")
def tokenizer():
    return lk.train_tokenizer(kind="bpe", vocab_size=300, data=ROWS)


class TestTextsOfTheData:
    def test_are_rows_that_are_not_scored(self, task, tokenizer):
        texts = from_data(task, ROWS, tokenizer)
        sample = sample_of(task, ROWS, tokenizer, 10**9, held_out=True)

        scored = {tuple(row.input_ids) for row in sample.encoded}
        assert texts
        assert scored.isdisjoint(map(tuple, texts))

    def test_are_whole_rows_as_the_model_reads_them(self, task, tokenizer):
        left = shuffled(ROWS)[n_measured(ROWS) :]
        expected = [tuple(row.input_ids) for row in encode_rows(task, left, tokenizer)]

        found = [tuple(text) for text in from_data(task, ROWS, tokenizer)]

        assert found == expected[: len(found)]

    def test_are_as_many_as_it_takes(self, task, tokenizer):
        texts = from_data(task, ROWS * 20, tokenizer)

        count = sum(map(len, texts))
        assert CALIBRATION_TOKENS <= count <= CALIBRATION_TOKENS + max(map(len, texts))

    def test_are_none_of_no_rows_or_of_rows_without_answers(self, task, tokenizer):
        assert from_data(task, [], tokenizer) == []
        assert from_data(task, [{"prompt": "?"}] * 8, tokenizer) == []


class Writing:
    """Stands for a generator that draws as many ids as it is asked for."""

    class manifest:  # noqa: N801
        class tokens:  # noqa: N801
            bos = 1

    def __init__(self):
        self.seeds = []

    def drawn(self, prompts, max_new_tokens, seed):
        self.seeds.append(seed)
        return [[7] * max_new_tokens for _ in prompts]


class TestTextsThatTheModelDraws:
    def test_begin_with_a_prompt_or_with_bos_alone_and_each_has_a_seed_of_its_own(self):
        model, told = Writing(), []

        texts = drawn(model, [np.array([5, 6]), np.array([8])], lambda *at: told.append(at))

        assert [text[0] for text in texts[:4]] == [5, 8, 1, 1]
        assert len(texts[0]) == 2 + texts[0].tolist().count(7)
        assert sum(map(len, texts)) >= OWN_TOKENS
        assert model.seeds == [OWN_ROWS * round for round in range(len(model.seeds))]
        assert told[-1] == (OWN_TOKENS, OWN_TOKENS)

    def test_are_not_needed_where_the_data_has_enough(self, task, tokenizer):
        source = Source(task=task, model=None, name="", tokenizer=tokenizer, stops=(), records=())

        texts, whose = calibration_texts(None, None, (), None, source, ROWS, lambda *at: None)

        assert sum(map(len, texts)) >= LEAST_TOKENS
        assert "data" in whose
