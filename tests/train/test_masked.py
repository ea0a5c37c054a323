"""A masked task from records to a run that fills masks."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from tiny import TINY_BERT
from toys import wordpiece

import lmkit as lk
from lmkit.answering import open_answerer
from lmkit.encoding import IGNORE
from lmkit.errors import TokenizerError
from lmkit.train.batches import as_tensors
from lmkit.train.models import load_model
from lmkit.train.scoring import batch_loss

TASK = lk.get_task("mlm")
ROWS = [{"text": text} for text in ("영화는 정말 좋았다!", "a good film, good films")] * 8
BERT = lk.scratch("bert", **TINY_BERT)


def fit(output, **changes):
    usual = {
        "model": BERT,
        "tokenizer": wordpiece(),
        "data": ROWS,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "use_cpu": True,
    }
    return lk.train(TASK, output=output, **{**usual, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("masked") / "run", max_steps=120, eval_data=ROWS[:2])


@pytest.mark.slow
class TestARun:
    def test_learns_what_is_hidden(self, run):
        unigrams = [label for row in lk.encode(TASK, ROWS, wordpiece()) for label in row.labels]
        shares = np.unique([t for t in unigrams if t != IGNORE], return_counts=True)[1] / len(ROWS)
        shares = shares / shares.sum()
        entropy = -(shares * np.log(shares)).sum()

        assert run.metrics["eval_loss"] < entropy / 2
        assert run.metrics["eval_perplexity"] == pytest.approx(math.exp(run.metrics["eval_loss"]))

    def test_is_one_that_transformers_opens(self, run):
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        model = AutoModelForMaskedLM.from_pretrained(run)
        tokenizer = AutoTokenizer.from_pretrained(run)

        assert model.config.pad_token_id == tokenizer.pad_token_id == 0
        assert tokenizer.mask_token == "[MASK]"

    def test_scores_as_the_model_s_own_loss_does(self, run):
        model = load_model(str(run), family=TASK.family).model.eval()
        fill = open_answerer(run)
        rows = TASK.collator.measured(lk.encode(TASK, ROWS, fill.tokenizer), fill.tokenizer)
        theirs = batch_loss(model, as_tensors(TASK.collator.collate(rows, 0)), TASK.family)
        ours = fill.score(rows)

        assert ours.count == theirs.count
        assert ours.total == pytest.approx(theirs.total, rel=1e-5)
        figures = lk.evaluate(run, data=ROWS)
        assert figures["loss"] == pytest.approx(theirs.total / theirs.count, rel=1e-5)

    def test_fills_masks(self, run):
        answer = open_answerer(run)({"text": "영화는 정말 [MASK]##았다!"})

        assert answer.value[0]["score"] <= 1
        assert len(answer.value) == 5


@pytest.mark.slow
def test_a_run_that_was_resumed_hid_what_an_uninterrupted_one_did(tmp_path):
    whole = fit(tmp_path / "whole", save_strategy="steps", save_steps=2, max_steps=6)
    begun = fit(tmp_path / "begun", save_strategy="steps", save_steps=2, max_steps=6)
    about = begun.path / "run.json"
    about.write_text(about.read_text("utf-8").replace('"finished": true', '"finished": false'))
    for name in ("model.safetensors", "config.json"):
        (begun.path / name).unlink()
    shutil.rmtree(begun.path / "checkpoint-6")
    again = fit(begun.path, save_strategy="steps", save_steps=2, max_steps=6, resume=True)

    first, second = (load_model(str(run), family=TASK.family).model for run in (whole, again))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name


def test_a_tokenizer_without_a_mask_token_is_refused_before_training(tmp_path):
    with pytest.raises(TokenizerError, match="has no mask token"):
        fit(tmp_path / "run", tokenizer=lk.train_tokenizer(kind="char", data=ROWS))

    assert not (tmp_path / "run").exists()


def test_rows_of_like_length_can_go_together(tmp_path):
    options = {"train_sampling_strategy": "group_by_length", "eval_data": ROWS[:2]}
    run = fit(tmp_path / "run", max_steps=2, **options)

    assert run.metrics["eval_loss"] > 0


def test_fills_a_hidden_word_of_its_samples(tmp_path):
    run = fit(tmp_path / "run", sample=1)

    lines = (run.path / "samples.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["asked"] for line in found] == ["영화는 [MASK] 좋았다!"] * 2
    assert found[0]["reference"] == ROWS[0]["text"]
    assert "[MASK]" not in found[0]["answer"]
