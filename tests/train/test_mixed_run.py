"""One model that learns several tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.answering import open_answerer
from lmkit.errors import ModelError, RecordError, TaskError, UnknownName
from lmkit.train import progress
from lmkit.train.lessons import encoded, feed_of, open_lessons
from lmkit.train.models import load_model
from lmkit.train.special import align_all

ALPACA = [{"instruction": f"{n}을 세어라", "output": "하나 둘 셋"} for n in range(5)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": "수?"},
            {"role": "assistant", "content": "수입니다."},
        ]
    }
] * 4
MIXTURE = lk.mix({"qa": 2, "alpaca": 1}, seed=3)
DATA = {"qa": ROWS, "alpaca": ALPACA}
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return lk.train_tokenizer(kind="char", data=DATA, task=MIXTURE)


@pytest.fixture(scope="module")
def fit(tokenizer):
    def fit(output, **changes):
        usual = {
            "model": lk.scratch("gpt2", **{**TINY, "n_positions": 256}),
            "tokenizer": tokenizer,
            "data": DATA,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "use_cpu": True,
            **STEPS,
        }
        return lk.train(changes.pop("task", MIXTURE), output=output, **{**usual, **changes})

    return fit


@pytest.fixture(scope="module")
def mixed(fit, tmp_path_factory):
    """Return a run without an interruption; tests only read it."""
    return fit(tmp_path_factory.mktemp("mixed") / "run", eval_data=DATA)


def logged(run):
    lines = (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
class TestAMixedRun:
    def test_measures_each_task_and_all_together(self, mixed):
        [first, *_] = [entry for entry in logged(mixed) if "eval_loss" in entry]
        losses = {name: first[f"eval_{name}_loss"] for name in ("qa", "alpaca")}

        assert first["eval_qa_perplexity"] == pytest.approx(np.exp(losses["qa"]))
        assert min(losses.values()) < first["eval_loss"] < max(losses.values())
        assert mixed.metrics["eval_alpaca_loss"] > 0

    def test_agrees_with_what_evaluate_measures(self, mixed):
        figures = lk.evaluate(mixed, data=DATA)
        alone = lk.evaluate(mixed, data=ROWS, task="qa")

        assert figures["qa_loss"] == pytest.approx(alone["loss"])
        assert figures["qa_loss"] == pytest.approx(mixed.metrics["eval_qa_loss"])
        assert figures["loss"] == pytest.approx(mixed.metrics["eval_loss"])
        assert figures["records"] == len(ROWS) + len(ALPACA)

    def test_measures_one_task_of_it(self, mixed):
        figures = lk.evaluate(mixed, data={"alpaca": ALPACA})

        assert figures["alpaca_loss"] == figures["loss"]
        assert "qa_loss" not in figures

    def test_holds_the_mixture_and_says_what_each_data_was(self, mixed):
        about = json.loads((mixed.path / "run.json").read_text("utf-8"))

        assert lk.get_task(mixed.path) == mixed.task
        assert [task.name for task in mixed.task.tasks] == ["qa", "alpaca"]
        assert about["data"]["rows"] == 17
        assert about["data"]["tasks"]["alpaca"]["rows"] == 5

    def test_answers_as_the_task_that_is_chosen(self, mixed):
        ask = open_answerer(mixed.path, "alpaca")

        assert ask.task.name == "alpaca"
        assert ask({"instruction": "하나"}, max_new_tokens=2).usage.completion_tokens == 2
        with pytest.raises(TaskError, match=r"choose one with task= \(--task\): qa, alpaca"):
            open_answerer(mixed.path)

    def test_is_exported_for_one_task(self, mixed, tmp_path):
        with pytest.raises(TaskError, match=r"choose one with task= \(--task\): qa, alpaca"):
            lk.export(mixed, output=tmp_path / "bundle")

        bundle = lk.export(mixed, task="qa", output=tmp_path / "bundle")

        assert bundle.manifest.task.name == "qa"
        assert bundle.manifest.precisions["fp32"].parity["greedy_tokens_equal"] is True

    def test_each_record_is_what_its_own_task_would_learn(self, tokenizer):
        lessons = open_lessons(MIXTURE, data=DATA, eval_data=None, eval_fraction=None, seed=0)
        lessons = [encoded(lesson, lesson.task, tokenizer) for lesson in lessons]
        epoch = feed_of(MIXTURE, lessons, tokenizer).epoch(0)
        own = [
            {(tuple(row.input_ids), tuple(row.labels)) for row in lk.encode(task, data, tokenizer)}
            for task, data in (("qa", ROWS), ("alpaca", ALPACA))
        ]
        groups = []
        for index in range(len(epoch)):
            row = epoch.draw(index, np.random.default_rng(0))
            groups.append(row.group)
            assert (tuple(row.input_ids), tuple(row.labels)) in own[row.group]

        assert (groups.count(0), groups.count(1)) == (11, 6)


class Cut(Exception):
    """Stands for a crash."""


@pytest.mark.slow
class TestResuming:
    @pytest.mark.parametrize("batch", [4, 5])
    def test_in_the_middle_of_an_epoch_or_at_its_end_gives_the_same_weights(
        self, fit, mixed, tmp_path, monkeypatch, batch
    ):
        """Seventeen rows: step 5 is the last of the first epoch, or the first of the second."""
        options = {"eval_data": DATA, "per_device_train_batch_size": batch}
        whole = mixed if batch == 4 else fit(tmp_path / "whole", **options)

        def crash(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "on_step_end", crash)
            with pytest.raises(Cut):
                fit(tmp_path / "run", **options)
        resumed = fit(tmp_path / "run", resume=True, **options)

        one, other = (load_file(run.path / "model.safetensors") for run in (resumed, whole))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_with_other_weights_or_another_seed_is_refused(self, fit, mixed):
        for other in (lk.mix({"qa": 1, "alpaca": 1}, seed=3), lk.mix({"qa": 2, "alpaca": 1})):
            with pytest.raises(ModelError, match="was started with another task"):
                fit(mixed.path, task=other, eval_data=DATA, resume=True)

    def test_with_other_data_is_refused(self, fit, mixed):
        with pytest.raises(ModelError, match="its data was"):
            fit(mixed.path, data={**DATA, "qa": ROWS[1:]}, eval_data=DATA, resume=True)


class TestTheData:
    @pytest.mark.parametrize(
        ("data", "error", "said"),
        [
            (ROWS, TaskError, r"expected one for each task: \{'qa': ..., 'alpaca': ...\}"),
            ({"qa": ROWS}, TaskError, "data has nothing for task 'alpaca'"),
            (
                {**DATA, "chat": CHATS},
                UnknownName,
                r"no task in the mixture qa\+alpaca named 'chat'",
            ),
            ({**DATA, "alpaca": ROWS[:1]}, RecordError, "column 'output' is missing"),
            ({**DATA, "alpaca": "no.jsonl"}, RecordError, r"no\.jsonl: there is no such file"),
        ],
    )
    def test_that_does_not_fit_is_told_before_training(self, fit, tmp_path, data, error, said):
        with pytest.raises(error, match=said):
            fit(tmp_path / "run", data=data)

        assert not (tmp_path / "run").exists()

    def test_of_a_single_task_is_no_mapping(self, fit, tmp_path):
        with pytest.raises(TaskError, match="'qa' is a single task and takes a file or a list"):
            fit(tmp_path / "run", task="qa", data=DATA)

    def test_by_task_is_for_a_run_that_learned_a_mixture(self, tmp_path):
        with pytest.raises(TaskError, match="is no run that learned one"):
            lk.evaluate(tmp_path, data=DATA)


class TestSpecialTokens:
    """One tokenizer serves all tasks, so they must agree on what ends a text."""

    CHATML = lk.get_task("chat").evolve(formatter=lk.Chat(template="chatml"))

    @pytest.fixture
    def loaded(self):
        from lmkit.testing import toy_tokenizer

        tiny = lk.scratch("gpt2", **{**TINY, "n_embd": 4})
        return load_model(tiny, family=MIXTURE.family, tokenizer=toy_tokenizer())

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_chats_end_of_turn_ends_every_task(self, loaded, turned):
        tasks = [lk.get_task("qa"), self.CHATML]
        tokenizer, stops = align_all(loaded.model, loaded.tokenizer, tasks[:: -1 if turned else 1])
        end, old = (loaded.tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>"))

        assert (tokenizer.eos_id, stops) == (end, [end, old])
        assert loaded.model.generation_config.eos_token_id == [end, old]

    def test_two_unlike_chat_templates_are_refused(self, loaded):
        other = self.CHATML.evolve(name="other", formatter=lk.Chat(template="{{ messages }}"))

        with pytest.raises(TaskError, match="'chat' and 'other' have unlike chat templates"):
            align_all(loaded.model, loaded.tokenizer, [self.CHATML, other])

    def test_two_chats_of_one_template_are_not(self, loaded):
        other = self.CHATML.evolve(name="other")

        assert align_all(loaded.model, loaded.tokenizer, [self.CHATML, other])[1]
