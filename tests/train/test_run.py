import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.encoding import IGNORE
from lmkit.errors import LmkitError, ModelError, OutputExists, RecordError, UnknownOption
from lmkit.saving.taskfile import read_task
from lmkit.train import progress
from lmkit.train.folder import Run, last_checkpoint

STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


def weights(run):
    return load_file(Path(run) / "model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(run, key):
    """Return the steps at which a figure was logged, in file order."""
    lines = (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if key in entry]


class TestAFinishedRun:
    def test_transformers_opens_it_by_its_value_as_by_its_path(self, run, tokenizer):
        model = transformers.AutoModelForCausalLM.from_pretrained(run)
        own = transformers.AutoTokenizer.from_pretrained(run)

        assert model.config.vocab_size == tokenizer.vocab_size
        assert own("좋은 수").input_ids == tokenizer.encode("좋은 수")

    def test_its_files_are_those_of_hugging_face_and_lmkits_own(self, run):
        assert {path.name for path in run.path.iterdir() if path.is_file()} >= {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "task.json",
            "run.json",
            "metrics.jsonl",
        }

    def test_it_holds_its_task(self, run):
        assert read_task(run.path / "task.json") == run.task
        assert run.task.name == "qa"

    def test_it_is_opened_from_its_path(self, run):
        assert Run.open(run.path) == Run(run.path, run.task)
        assert os.fspath(run) == str(run) == str(run.path)

    def test_it_says_from_what_it_came(self, run):
        about = json.loads((run.path / "run.json").read_text("utf-8"))

        assert about["finished"] is True
        assert about["data"]["rows"] == len(ROWS)
        assert about["model"] == "scratch:gpt2," + ",".join(f"{k}={v}" for k, v in TINY.items())
        assert about["arguments"]["max_steps"] == "4"
        assert about["versions"]["transformers"] == transformers.__version__

    def test_its_log_has_each_step_once_in_order(self, run):
        assert logged(run, "loss") == [1, 2, 3, 4]
        assert logged(run, "train_runtime") == [4]

    def test_its_last_figures_are_at_hand(self, run):
        assert run.metrics["step"] == 4
        assert run.metrics["eval_perplexity"] > 1

    def test_each_checkpoint_is_a_run_itself(self, run):
        checkpoint = Run.open(run.path / "checkpoint-2")

        assert checkpoint.task == run.task
        assert transformers.AutoModelForCausalLM.from_pretrained(checkpoint).config.n_layer == 1
        assert transformers.AutoTokenizer.from_pretrained(checkpoint).eos_token == "<|endoftext|>"

    def test_the_last_checkpoint_is_the_result(self, run):
        assert same(run, run.path / "checkpoint-4")

    def test_it_learned(self, fit, run, tmp_path):
        untrained = fit(tmp_path / "run", learning_rate=1e-12)

        assert lk.evaluate(run, data=ROWS)["loss"] < lk.evaluate(untrained, data=ROWS)["loss"]

    def test_the_same_seed_gives_the_same_weights_and_another_one_others(self, fit, tmp_path):
        first, again = fit(tmp_path / "first"), fit(tmp_path / "again")

        assert same(first, again)
        assert not same(first, fit(tmp_path / "other", seed=7))


class TestTheData:
    def test_a_missing_column_names_file_line_and_column_and_nothing_is_written(
        self, fit, jsonl, tmp_path
    ):
        path = jsonl([ROWS[0], {"prompt": "?"}, ROWS[1], {"completion": "!"}])

        with pytest.raises(RecordError) as caught:
            fit(tmp_path / "run", data=path)

        assert f"{path}:2: column 'completion' is missing; the record has prompt" in str(
            caught.value
        )
        assert f"{path}:4: column 'prompt' is missing" in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_bad_evaluation_data_is_found_before_training(self, fit, jsonl, tmp_path):
        with pytest.raises(RecordError, match=r"eval\.jsonl:1: column 'completion' is missing"):
            fit(tmp_path / "run", eval_data=jsonl([{"prompt": "?"}], "eval.jsonl"))

        assert not (tmp_path / "run").exists()

    def test_a_data_file_that_is_not_there_is_a_users_error(self, fit, tmp_path):
        with pytest.raises(RecordError, match=r"gone\.jsonl: there is no such file"):
            fit(tmp_path / "run", data="gone.jsonl")

        assert not (tmp_path / "run").exists()

    def test_rows_longer_than_the_context_lose_context_and_keep_the_answers_end(
        self, fit, tmp_path, tokenizer
    ):
        long = [{"prompt": "하나 둘 셋 " * 100, "completion": "수입니다"}] * 4

        run = fit(tmp_path / "run", data=long)
        row = lk.encode(run.task, long[:1], tokenizer)[0]

        assert run.task.collator.max_length == len(row) == TINY["n_positions"]
        assert row.labels[-1] == tokenizer.eos_id
        assert lk.evaluate(run, data=long)["records"] == 4

    def test_a_generator_is_read_once(self, fit, tmp_path):
        assert fit(tmp_path / "run", data=(dict(row) for row in ROWS)).metrics["step"] == 2


class TestArguments:
    @pytest.mark.parametrize(
        ("name", "near"),
        [("learning_rat", "learning_rate"), ("num_epochs", "num_train_epochs"), ("pads", "pad")],
    )
    def test_an_unknown_one_is_refused_with_the_near_name(self, fit, tmp_path, name, near):
        with pytest.raises(UnknownOption, match=f"close to: .*{near}"):
            fit(tmp_path / "run", **{name: 1})

        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("output_dir", "it is output="),
            ("remove_unused_columns", "the labels would be lost"),
            ("resume_from_checkpoint", "it is resume="),
            ("disable_tqdm", "the bar is lmkit's own"),
        ],
    )
    def test_lmkits_own_cannot_be_set(self, fit, tmp_path, name, reason):
        with pytest.raises(LmkitError, match=f"'{name}' cannot be set: {reason}"):
            fit(tmp_path / "run", **{name: None})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"learning_rate": "abc"}, "learning_rate is 'abc'; expected a number, such as 5e-05"),
            ({"max_steps": True}, "max_steps is True; expected a number, such as -1"),
            ({"bf16": "maybe"}, "bf16 is 'maybe'; expected true or false"),
        ],
    )
    def test_a_value_of_the_wrong_kind_is_refused_and_leaves_no_run(
        self, fit, tmp_path, arguments, message
    ):
        with pytest.raises(LmkitError, match=message):
            fit(tmp_path / "run", **arguments)

        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            {"save_strategy": "sometimes"},
            {"eval_strategy": "steps"},
            {"load_best_model_at_end": True, "save_strategy": "steps"},
        ],
    )
    def test_some_that_do_not_fit_together_are_a_users_error_and_leave_no_run(
        self, fit, tmp_path, arguments
    ):
        with pytest.raises(LmkitError, match="the training arguments do not fit together"):
            fit(tmp_path / "run", **arguments)

        assert not list(tmp_path.glob("run/*"))

    def test_a_task_may_be_given_by_name_or_value(self, fit, tmp_path):
        assert fit(tmp_path / "run", task=lk.get_task("qa")).task.name == "qa"

    def test_early_stopping_can_watch_the_perplexity(self, fit, tmp_path):
        run = fit(
            tmp_path / "run",
            eval_data=ROWS[:3],
            load_best_model_at_end=True,
            metric_for_best_model="eval_perplexity",
            greater_is_better=False,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=1,
            eval_steps=1,
        )

        assert logged(run, "eval_perplexity") == [1, 2]


class TestTheOutput:
    def test_an_existing_run_is_refused_before_any_work_and_untouched(self, fit, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("mine")

        with pytest.raises(OutputExists, match=r"already exists; choose another output.*--resume"):
            fit(tmp_path / "run", data="gone.jsonl")

        assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_file_in_its_place_is_refused(self, fit, tmp_path, resume):
        (tmp_path / "run").write_text("mine")

        with pytest.raises(OutputExists):
            fit(tmp_path / "run", resume=resume)

    def test_an_empty_folder_may_be_filled(self, fit, tmp_path):
        (tmp_path / "run").mkdir()

        assert fit(tmp_path / "run").path == tmp_path / "run"

    def test_a_run_that_has_not_finished_cannot_be_opened(self, run, tmp_path):
        """A kill while the weights are written leaves a config.json beside half of them."""
        shutil.copytree(run, tmp_path / "run")
        about = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
        (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "finished": False}))

        with pytest.raises(ModelError, match=r"a run that has not finished; .*--resume"):
            Run.open(tmp_path / "run")

    def test_a_folder_that_is_no_run_cannot_be_opened(self, tmp_path):
        with pytest.raises(ModelError, match=r"is not a run: it has no task\.json"):
            Run.open(tmp_path)


class Cut(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def whole(fit, tmp_path_factory):
    """Return a run of six steps without an interruption, checkpoints at 2, 4 and 6."""
    return fit(tmp_path_factory.mktemp("whole") / "run", **STEPS)


@pytest.fixture
def interrupted(fit, tmp_path, monkeypatch):
    """Return a function that trains until step 5 and crashes there; the folder is left behind."""

    def interrupt(**changes):
        def crash(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "on_step_end", crash)
            with pytest.raises(Cut):
                fit(tmp_path / "run", **{**STEPS, **changes})
        return tmp_path / "run"

    return interrupt


class TestResuming:
    def test_it_ends_as_if_there_had_been_no_interruption(self, fit, whole, interrupted):
        """Dropout is on, so this holds only if the random state is restored as well."""
        folder = interrupted()

        resumed = fit(folder, resume=True, **STEPS)

        assert same(resumed, whole)
        assert logged(resumed, "loss") == [1, 2, 3, 4, 5, 6]
        lines = [
            (Path(run) / "metrics.jsonl").read_text().splitlines()[:6] for run in (folder, whole)
        ]
        assert lines[0] == lines[1]

    def test_across_the_end_of_an_epoch_too(self, fit, tmp_path, interrupted):
        """Twelve rows in batches of five: step 4 is the first of the second epoch."""
        batches = {"per_device_train_batch_size": 5}
        folder = interrupted(**batches)

        resumed = fit(folder, resume=True, **STEPS, **batches)

        assert same(resumed, fit(tmp_path / "whole", **STEPS, **batches))

    def test_a_half_written_checkpoint_is_skipped(self, fit, whole, interrupted):
        folder = interrupted()
        half = folder / "checkpoint-4"
        (half / "task.json").unlink()
        (half / "optimizer.pt").unlink()
        (half / "model.safetensors").write_bytes(b"half")

        assert last_checkpoint(folder) == folder / "checkpoint-2"
        assert same(fit(folder, resume=True, **STEPS), whole)

    def test_a_checkpoint_that_was_cut_off_by_a_crash_is_skipped(
        self, fit, whole, tmp_path, monkeypatch
    ):
        def crash(self, args, state, control, **kwargs):
            raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(progress.SaveBeside, "on_save", crash)
            with pytest.raises(Cut):
                fit(tmp_path / "run", **STEPS)

        assert last_checkpoint(tmp_path / "run") is None
        assert same(fit(tmp_path / "run", resume=True, **STEPS), whole)

    @pytest.mark.slow
    def test_after_a_kill_too(self, fit, whole, tmp_path, tokenizer):
        tokenizer.save(tmp_path / "tokenizer")
        script = (
            "import json, os, signal, sys\n"
            "import lmkit as lk\n"
            "from lmkit.train import progress\n"
            "def kill(self, args, state, control, **kwargs):\n"
            "    if state.global_step == 5:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "progress.Progress.on_step_end = kill\n"
            "rows, tiny, steps = json.loads(sys.argv[3])\n"
            "lk.train('qa', model=lk.scratch('gpt2', **tiny), tokenizer=sys.argv[1], data=rows,\n"
            "         output=sys.argv[2], per_device_train_batch_size=4, learning_rate=1e-2,\n"
            "         use_cpu=True, **steps)\n"
        )
        folder = tmp_path / "run"

        done = subprocess.run(
            [
                sys.executable,
                "-c",
                script,
                tmp_path / "tokenizer",
                folder,
                json.dumps([ROWS, TINY, STEPS]),
            ],
            capture_output=True,
            check=False,
        )

        assert done.returncode == -signal.SIGKILL, done.stderr
        with pytest.raises(ModelError, match="has not finished"):
            Run.open(folder)
        assert same(fit(folder, resume=True, **STEPS), whole)

    def test_a_torn_last_line_of_the_log_is_dropped(self, fit, interrupted):
        folder = interrupted()
        with open(folder / "metrics.jsonl", "a") as file:
            file.write('{"step": 5, "lo')

        assert logged(fit(folder, resume=True, **STEPS), "loss") == [1, 2, 3, 4, 5, 6]

    def test_a_finished_run_stays_as_it_is(self, fit, whole, tmp_path):
        shutil.copytree(whole, tmp_path / "run")

        again = fit(tmp_path / "run", resume=True, **STEPS)

        assert same(again, whole)
        assert logged(again, "loss") == [1, 2, 3, 4, 5, 6]
        assert logged(again, "train_runtime") == [6]

    def test_where_nothing_was_begun_it_begins(self, fit, whole, tmp_path):
        assert same(fit(tmp_path / "run", resume=True, **STEPS), whole)

    @pytest.mark.parametrize(
        ("what", "changes"),
        [
            ("data", {"data": ROWS[1:]}),
            ("arguments", {"learning_rate": 0.5}),
            ("model", {"model": lk.scratch("gpt2", **{**TINY, "n_layer": 2})}),
            ("tokenizer", {"pad": "[PAD]"}),
            ("task", {"task": lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=9))}),
        ],
    )
    def test_with_something_else_it_is_refused_saying_what(self, fit, whole, what, changes):
        before = {path: path.read_bytes() for path in whole.path.iterdir() if path.is_file()}

        with pytest.raises(ModelError, match=rf"(its {what} was|another {what})"):
            fit(whole.path, resume=True, **{**STEPS, **changes})

        assert before == {path: path.read_bytes() for path in before}

    def test_with_code_that_makes_other_labels_it_is_refused(self, fit, whole, monkeypatch):
        def without_the_end(self, *given, **options):
            row = encode(self, *given, **options)
            return attrs.evolve(row, labels=np.append(row.labels[:-1], IGNORE))

        encode = lk.CausalCollator.encode
        monkeypatch.setattr(lk.CausalCollator, "encode", without_the_end)

        with pytest.raises(ModelError, match="the same data gives other ids or labels now"):
            fit(whole.path, resume=True, cache=False, **STEPS)


def test_resume_takes_no_folder_that_is_not_a_run(fit, tmp_path):
    (tmp_path / "config.json").write_text("precious")

    with pytest.raises(ModelError, match=r"is not a run, .* it has config\.json and no run\.json"):
        fit(tmp_path, resume=True)

    assert (tmp_path / "config.json").read_text() == "precious"


def test_a_run_says_how_much_of_its_data_was_cut(fit, tmp_path):
    task = lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=10))

    run = fit(tmp_path / "run", task=task, ignore_findings=True)

    cut = json.loads((run.path / "run.json").read_text("utf-8"))["cut"]
    assert cut["max_length"] == 10
    assert cut["rows"] == 12
    assert cut["ids"] > 0
