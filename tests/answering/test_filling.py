import attrs
import numpy as np
import pytest
from toys import wordpiece

import lmkit as lk
from lmkit.answering import Answerer
from lmkit.answering.filling import MaskAnswerer, with_mask
from lmkit.encoding import encode
from lmkit.errors import PromptTooLong, RecordError, TaskError
from lmkit.records import Row

TASK = lk.get_task("mlm")
TEXTS = ["a [MASK]", "영화는 정말 [MASK] !", "[MASK]", "good good good [MASK] , a film"]


class Model:
    """Gives logits that depend on a token, its neighbours within the row, and nothing else."""

    def __init__(self):
        self.shapes = []
        self.weights = np.random.default_rng(0).normal(size=(3, 17, 17)).astype(np.float32)

    def __call__(self, ids, mask, marks):
        self.shapes.append(ids.shape)
        return self.whole(ids, mask)[marks]

    def whole(self, ids, mask):
        known = np.pad(np.where(mask == 1, ids, 0), ((0, 0), (1, 1)))
        here, before, after = self.weights
        return here[known[:, 1:-1]] + before[known[:, :-2]] + after[known[:, 2:]]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def filler(model):
    return MaskAnswerer(
        task=TASK, tokenizer=wordpiece(), context_length=12, vocab_size=17, read=model
    )


def test_a_batch_answers_as_single_calls_do_and_in_order(filler):
    records = [{"text": text} for text in TEXTS]

    assert filler.batch(records) == [filler(record) for record in records]
    assert filler.batch(records, batch_size=1) == filler.batch(records, batch_size=3)
    assert filler.batch([]) == []


def test_rows_of_like_length_go_together(filler, model):
    filler.batch([{"text": text} for text in [*TEXTS, *TEXTS]], batch_size=2)

    assert model.shapes == [(2, 3), (2, 4), (2, 7), (2, 9)]


def test_no_more_logits_are_held_than_fit(filler, model, monkeypatch):
    monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 17 * 8)
    filler.batch([{"text": text} for text in TEXTS])

    assert model.shapes == [(2, 4), (1, 7), (1, 9)]


def test_more_rows_fit_where_only_the_masks_logits_are_reckoned(filler, model, monkeypatch):
    monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 17 * 8)
    attrs.evolve(filler, picks=True).batch([{"text": text} for text in TEXTS])

    assert model.shapes == [(3, 7), (1, 9)]


def test_logits_are_those_of_all_tokens_or_of_the_marked_ones(filler):
    rows = [np.array([5, 6, 7]), np.array([8, 9]), np.array([9])]
    marks = [np.array([True, False, True]), np.array([False, False]), np.array([True])]

    whole = dict(filler.logits(rows, batch_size=3))
    some = dict(filler.logits(rows, batch_size=3, marks=marks))

    assert [len(logits) for logits in whole.values()] == [1, 2, 3]
    for index, logits in some.items():
        np.testing.assert_array_equal(logits, whole[index][marks[index]])


def test_a_stream_is_the_filled_text_at_once(filler):
    record = {"text": TEXTS[1]}

    assert list(filler.stream(record)) == [filler(record).text]


def test_it_is_an_answerer(filler):
    assert isinstance(filler, Answerer)


@pytest.mark.parametrize("ask", ["__call__", "stream"])
def test_generation_options_are_refused_by_name(ask, filler):
    with pytest.raises(
        TaskError,
        match=r"'mlm' fills masks .* seed, temperature cannot be set; .*'s FillMaskDecoder",
    ):
        getattr(filler, ask)({"text": "a [MASK]"}, temperature=0.5, seed=1)


def test_a_text_without_a_mask_is_named(filler):
    with pytest.raises(RecordError, match=r"record 1: there is nothing to fill: put \[MASK\]"):
        filler.batch([{"text": "a [MASK]"}, {"text": "a"}])


def test_a_text_that_is_too_long_is_refused(filler):
    with pytest.raises(PromptTooLong, match="13"):
        filler({"text": "a " * 10 + "[MASK]"})


def test_log_probabilities_are_those_of_the_hidden_tokens(filler, model):
    rows = encode(TASK, [{"text": "a films , good"}, {"text": "영화는 !"}], filler.tokenizer)
    rows = TASK.collator.measured(rows, filler.tokenizer)
    found = filler.log_probs(rows)

    for row, ours in zip(rows, found, strict=True):
        logits = model.whole(row.input_ids[None], np.ones((1, len(row)), int))[0].astype(float)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = np.flatnonzero(row.labels >= 0)
        assert len(at) == len(ours) > 0
        np.testing.assert_allclose(ours, expected[at, row.labels[at]], rtol=1e-6)
    assert filler.score(rows).count == sum(map(len, found))
    assert filler.score(rows).total == pytest.approx(-sum(map(np.sum, found)))


class TestWithMask:
    def test_takes_the_middle_word(self):
        assert with_mask(TASK, {"text": "one two three"}, wordpiece()) == {
            "text": "one [MASK] three"
        }

    def test_opens_a_single_word(self):
        assert with_mask(TASK, {"text": "CCOC"}, wordpiece()) == {"text": "CC[MASK]OC"}

    def test_takes_the_column_that_has_words(self):
        task = TASK.evolve(formatter=lk.context("{a} {b}"))
        found = with_mask(task, {"a": "x", "b": ["y", "z"], "c": 1}, wordpiece())

        assert found == {"a": "x", "b": "y [MASK]", "c": 1}

    def test_keeps_a_row_s_place(self):
        assert with_mask(TASK, Row({"text": "a b"}, "f:3"), wordpiece()).where == "f:3"

    def test_names_a_column_that_is_missing(self):
        with pytest.raises(RecordError, match="column 'text' is missing"):
            with_mask(TASK, {"txt": "a"}, wordpiece())


def test_a_task_s_metrics_are_measured_without_generation_options(filler):
    task = TASK.evolve(metrics=(lk.ExactMatch(),))
    figures = lk.evaluate(attrs.evolve(filler, task=task), data=[{"text": "a good film [MASK]"}])

    assert figures["exact_match"] == 0
    assert figures["tokens"] >= 1
