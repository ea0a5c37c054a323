import math

import numpy as np
import pytest
import torch
import transformers

import lmkit as lk
from lmkit.answering.loss import Loss
from lmkit.decoding import Usage
from lmkit.encoding import IGNORE
from lmkit.train.scoring import batch_loss, mean_loss


@pytest.fixture(scope="module")
def model(run):
    return transformers.AutoModelForCausalLM.from_pretrained(run.path).eval()


def by_hand(model, row):
    """Return each learned token's loss, computed from the logits of the row alone."""
    ids, labels = torch.from_numpy(row.input_ids), torch.from_numpy(row.labels)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    losses = -torch.log_softmax(logits[:-1], dim=-1)[range(len(ids) - 1), ids[1:]]
    return losses[labels[1:] != IGNORE]


@pytest.fixture(scope="module")
def losses(run, rows, tokenizer, model):
    return [by_hand(model, row) for row in lk.encode(run.task, rows, tokenizer)]


def test_perplexity_is_exp_of_the_mean_over_learned_tokens(run, rows, losses):
    figures = lk.evaluate(run, data=rows)

    assert figures["perplexity"] == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)
    assert figures["loss"] == pytest.approx(math.log(figures["perplexity"]))
    assert figures["tokens"] == sum(map(len, losses))
    assert figures["records"] == len(rows)


def test_it_is_not_the_mean_of_the_batches_means(run, tokenizer, model):
    """The usual shortcut weighs a token in a short answer more; on ragged rows the two differ."""
    ragged = [{"prompt": "1", "completion": "무"}, {"prompt": "2", "completion": "수" * 50}]
    losses = [by_hand(model, row) for row in lk.encode(run.task, ragged, tokenizer)]
    shortcut = math.exp(sum(float(loss.mean()) for loss in losses) / len(losses))

    perplexity = lk.evaluate(run, data=ragged, batch_size=1)["perplexity"]

    assert perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)
    assert abs(perplexity - shortcut) > 0.1


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_how_rows_fall_into_batches_changes_nothing(run, rows, batch_size):
    expected = lk.evaluate(run, data=rows, batch_size=3)["loss"]

    assert lk.evaluate(run, data=rows, batch_size=batch_size)["loss"] == pytest.approx(expected)


def test_order_changes_nothing(run, rows):
    figures = lk.evaluate(run, data=rows), lk.evaluate(run, data=rows[::-1])

    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"])


def test_training_reports_the_same_perplexity_as_evaluating(run, rows):
    assert run.metrics["eval_perplexity"] == pytest.approx(
        lk.evaluate(run, data=rows[:5])["perplexity"], rel=1e-4
    )


def test_progress_is_told_up_to_the_last_row(run, rows):
    seen = []

    lk.evaluate(run, data=rows, batch_size=5, on_progress=lambda done, of: seen.append((done, of)))

    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_a_model_is_left_in_the_mode_it_was_in(model):
    model.train()
    try:
        mean_loss(model, [])
        assert model.training
    finally:
        model.eval()


def test_dropout_is_off_while_scoring(model, run, rows, tokenizer):
    row = lk.encode(run.task, rows[:1], tokenizer)[0]
    batch = {
        "input_ids": torch.from_numpy(row.input_ids[None]),
        "labels": torch.from_numpy(row.labels[None]),
    }
    model.train()
    try:
        assert mean_loss(model, [batch]) == mean_loss(model, [batch])
    finally:
        model.eval()


def test_a_batch_without_learned_tokens_adds_nothing(model):
    """transformers returns nan for such a batch, which would spoil the sum."""
    ids = torch.from_numpy(np.ones((2, 3), np.int64))

    assert batch_loss(model, {"input_ids": ids, "labels": torch.full_like(ids, -100)}) == Loss()


def test_only_the_first_label_of_a_row_is_not_counted(model):
    """Nothing stands before it that could predict it."""
    ids = torch.from_numpy(np.ones((1, 3), np.int64))

    assert batch_loss(model, {"input_ids": ids, "labels": ids.clone()}).count == 2


class TestLoss:
    def test_sums_of_sums_are_sums(self):
        assert Loss(1.0, 2) + Loss(3.0, 4) == Loss(4.0, 6)

    def test_no_tokens_have_no_mean(self):
        assert math.isnan(Loss().figures()["perplexity"])

    def test_a_loss_too_large_for_exp_is_infinite_perplexity(self):
        assert Loss(1000.0, 1).figures()["perplexity"] == math.inf


class TestMetrics:
    def test_a_tasks_metrics_are_measured_on_greedy_answers(self, run, rows):
        asked = []

        class Known:
            """Answers every record with its own reference, but for the first."""

            task = run.task.evolve(metrics=[lk.ExactMatch()])
            tokenizer = lk.Tokenizer.load(run.path)

            def score(self, batch):
                return Loss(1.0, 1)

            def batch(self, records, **options):
                asked.append(options)
                values = [record["completion"].strip() for record in records]
                answers = ["?", *values[1:]]
                usage = Usage(prompt_tokens=1, completion_tokens=1)
                return [
                    lk.Answer(value=text, text=text, finish_reason="stop", usage=usage)
                    for text in answers
                ]

            def __call__(self, record, **options):
                raise NotImplementedError

            stream = prompt = log_probs = __call__

            def with_task(self, task):
                return self

        seen = []
        figures = lk.evaluate(Known(), data=rows[:4], on_progress=lambda *done: seen.append(done))

        assert figures["exact_match"] == 0.75
        assert seen == [(4, 4), (4, 4)]  # once for the loss, and once for the answers
        assert asked == [{"temperature": 0.0, "batch_size": 8}]

    def test_without_metrics_nothing_is_generated(self, run, rows):
        assert lk.evaluate(run, data=rows[:2]).keys() == {
            "loss",
            "perplexity",
            "tokens",
            "records",
        }


def test_a_record_that_does_not_fit_is_named(run, jsonl):
    path = jsonl([{"prompt": "a", "completion": "b"}, {"prompt": "a"}])

    with pytest.raises(lk.LmkitError, match=r"train\.jsonl:2: column 'completion' is missing"):
        lk.evaluate(run, data=path)
