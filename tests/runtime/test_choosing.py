"""Labels as a bundle's answers, without torch: the figures are those of the model's numpy twin."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.answering import Answerer
from lmkit.encoding import prompt_ids
from lmkit.errors import PromptTooLong, TaskError

from .toybundle import RECORD, RECORDS, TASK, write_bundle

LABELS = ("긍정", "부정", "so so", "so so la")
CHOOSING = TASK.evolve(decoder=lk.LabelDecoder(labels=LABELS))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("choosing") / "bundle", task=CHOOSING)


@pytest.fixture(scope="module")
def ask(bundle):
    return lk.load(bundle, threads=1)


def log_prob(toy, prompt, answer):
    """Return the log-probability of an answer's tokens behind a prompt."""
    logits = toy.logits(np.array([*prompt, *answer])).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(logits[len(prompt) - 1 + n, token] for n, token in enumerate(answer))


def shares(toy, tokenizer, record):
    prompt = prompt_ids(CHOOSING, record, tokenizer).tolist()
    answers = [tokenizer.encode(f" {label}", opens=False) for label in LABELS]
    scores = np.exp([log_prob(toy, prompt, answer) for answer in answers])
    return dict(zip(LABELS, (scores / scores.sum()).tolist(), strict=True))


@pytest.mark.parametrize("record", RECORDS)
def test_the_probabilities_are_those_of_the_labels_by_hand(ask, toy, record):
    answer = ask(record)
    wanted = shares(toy, ask.tokenizer, record)

    assert answer.probabilities == pytest.approx(wanted, rel=1e-4)
    assert answer.value == answer.text == max(wanted, key=wanted.get)
    assert answer.finish_reason == "stop"
    assert ask.tokenizer.decode(answer.token_ids) == f" {answer.value}"
    assert answer.usage.completion_tokens == len(answer.token_ids)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_ragged_records_in_a_batch_are_answered_as_one_by_one(ask, size):
    records = [*RECORDS, *reversed(RECORDS)]

    for answer, record in zip(ask.batch(records, batch_size=size), records, strict=True):
        alone = ask(record)
        assert answer.probabilities == pytest.approx(alone.probabilities, rel=1e-4)
        assert (answer.value, answer.usage) == (alone.value, alone.usage)


def test_scores_in_small_parts_are_the_same(ask, monkeypatch):
    whole = ask(RECORD).probabilities
    monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 1)

    assert ask(RECORD).probabilities == pytest.approx(whole, rel=1e-5)


def test_a_stream_is_the_label(ask):
    assert list(ask.stream(RECORD)) == [ask(RECORD).text]


@pytest.mark.parametrize("how", ["__call__", "stream", "batch"])
def test_an_option_of_generation_is_refused(ask, how):
    with pytest.raises(TaskError, match=r"task 'toy' scores its labels .* so max_new_tokens would"):
        getattr(ask, how)([RECORD] if how == "batch" else RECORD, max_new_tokens=3)


def test_a_prompt_that_does_not_fit_is_refused(ask):
    with pytest.raises(PromptTooLong):
        ask({"prompt": "x" * 80})


def test_it_can_be_evaluated(bundle, ask):
    rows = [{**record, "completion": ask(record).value} for record in RECORDS]

    assert isinstance(ask, Answerer)
    assert lk.evaluate(bundle, data=rows)["perplexity"] > 1


def test_metrics_are_measured_on_the_labels(tmp_path, ask):
    from lmkit.metrics import Accuracy, MacroF1

    task = CHOOSING.evolve(metrics=[Accuracy(), MacroF1()])
    rows = [{**record, "completion": ask(record).value} for record in RECORDS]

    figures = lk.evaluate(write_bundle(tmp_path / "measured", task=task), data=rows)

    assert (figures["accuracy"], figures["macro_f1"]) == (1.0, 1.0)
