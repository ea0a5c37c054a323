"""Several processes train as a single one does whose batch is as large as theirs together."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ranked
import torch
from safetensors.torch import load_file
from tiny import ROWS

import lmkit as lk
from lmkit.answering import open_answerer
from lmkit.errors import ModelError

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
CASES = ranked.cases()
RESUMED = ("plain", "sharded")


def launched(launcher, *words, cwd=None, n=2):
    """Return what a command ends with, started in several processes."""
    command = {
        "torchrun": ["torch.distributed.run", "--standalone", f"--nproc-per-node={n}"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", f"--num_processes={n}"],
    }[launcher]
    more = [] if launcher == "torchrun" else ["--main_process_port=0", "--num_machines=1"]
    more += ["--mixed_precision=no", "--dynamo_backend=no"] if more else []
    paths = [str(path) for path in (HERE, HERE.parent)]
    return subprocess.run(
        [sys.executable, "-m", *command, *more, *map(str, words)],
        cwd=cwd,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Return the folder in which two processes have trained every case."""
    folder = tmp_path_factory.mktemp("several")
    done = launched("torchrun", HERE / "ranked.py", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function that trains a case in this process."""
    folder, made = tmp_path_factory.mktemp("alone"), {}

    def train(name):
        if name not in made:
            task, options = CASES[name]
            made[name] = lk.train(
                task,
                output=folder / name,
                per_device_train_batch_size=4,
                use_cpu=True,
                **options,
            )
        return made[name]

    return train


def figures(run):
    """Return what a run logged, in order, but for the time it took."""
    lines = (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if _is_told_alike(key)}
        for line in lines
    ]


def _is_told_alike(key):
    return not re.search("runtime|per_second|total_flos|memory", key)


@pytest.mark.parametrize("name", CASES)
def test_the_figures_of_every_step_are_those_of_one_process(name, several, alone):
    told, expected = figures(several / name), figures(alone(name))

    assert [line["step"] for line in told] == [line["step"] for line in expected]
    for line, other in zip(told, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_one_process(name, several, alone):
    weights, expected = (
        load_file(Path(run) / "model.safetensors") for run in (several / name, alone(name))
    )

    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(name, several):
    whole, resumed = several / name, several / f"{name}, resumed"

    told, expected = (
        [line for line in figures(run) if "train_loss" not in line]  # it is of what followed alone
        for run in (resumed, whole)
    )
    assert told == expected
    weights, expected = (load_file(run / "model.safetensors") for run in (resumed, whole))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", RESUMED)
def test_what_they_saved_is_opened_like_any_run(name, several):
    answerer = open_answerer(several / name)

    assert answerer(ROWS[0], max_new_tokens=3).usage.completion_tokens > 0


def test_the_run_says_how_many_trained_it(several, alone):
    about = json.loads((several / "plain" / "run.json").read_text("utf-8"))
    other = json.loads((alone("plain").path / "run.json").read_text("utf-8"))

    assert about["processes"] == 2
    assert "processes" not in other


def test_it_cannot_be_resumed_by_another_number_of_processes(several):
    task, options = CASES["plain"]

    with pytest.raises(ModelError, match="2 processes trained it and 1 would now"):
        lk.train(
            task,
            output=several / "plain, resumed",
            resume=True,
            **{**options, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 1},
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "train.jsonl").write_text(text, "utf-8")
    return folder


TRAIN = [
    "train",
    "--model=scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=96",
    "--tokenizer=bpe:300",
    "--data=train.jsonl",
    "--eval-fraction=0.25",
    "--set=max_steps=2",
    "--set=logging_steps=1",
]


def test_a_command_under_accelerate_speaks_once(data):
    done = launched(
        "accelerate", "-m", "lmkit", *TRAIN, "qa", "--output=run", "--sample=1", "--json", cwd=data
    )

    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["run"] == "run"
    assert done.stderr.count("step 2/2  loss") == 1
    assert done.stderr.count("rows of 9 records") == 1
    about = json.loads((data / "run" / "run.json").read_text("utf-8"))
    assert (about["finished"], about["processes"], len(about["sessions"])) == (True, 2, 1)
    assert (data / "run" / "report.html").is_file()
    assert len((data / "run" / "eval.jsonl").read_text("utf-8").splitlines()) == 3


def test_an_error_of_one_process_ends_all_with_its_message_told_once(data):
    (data / "broken.py").write_text(
        """import os

import lmkit as lk
from lmkit.errors import LmkitError


def fail(record):
    if os.environ["RANK"] == "1":
        raise LmkitError("the disk of this one is full")
    return record


TASK = lk.get_task("qa").map(fail)
""",
        "utf-8",
    )

    done = launched(
        "torchrun", "-m", "lmkit", *TRAIN, "broken.py:TASK", "--output=none", "--no-cache", cwd=data
    )

    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "the disk of this one is full" in done.stderr
    assert not (data / "none").exists()
