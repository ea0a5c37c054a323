"""`lmkit train --adapter`: what it says, and what it refuses."""

import json

import pytest
from exported import ROWS

pytest.importorskip("peft")

pytestmark = pytest.mark.slow


@pytest.fixture
def train(lmkit, tiny_run, jsonl, tmp_path):
    """Return a function that trains an adapter beside the tiny run for two steps."""

    def train(adapter, *more):
        steps = ("--set", "max_steps=2", "--set", "use_cpu=true", "--set", "save_strategy=no")
        return lmkit(
            *("train", "qa", "--model", tiny_run, "--data", jsonl(ROWS[:4]), *steps),
            *("--output", tmp_path / "run", "--adapter", adapter, *more),
        )

    return train


def test_it_says_how_much_of_the_model_was_trained(train, tmp_path):
    done = train("lora:r=4,lora_alpha=8")

    about = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    count, of = about["parameters"]["trainable"], about["parameters"]["all"]
    assert done.code == 0, done.err
    assert f"trained {count:,} of {of:,} parameters, {count / of:.3%}; the rest is" in done.out
    assert about["adapter"] == "lora:r=4,lora_alpha=8"


def test_as_json_too(train):
    done = train("prompt_tuning:num_virtual_tokens=2,init_text=네, 안녕", "--json")

    assert json.loads(done.out)["parameters"]["trainable"] == 2 * 32


def test_its_run_is_measured_and_answers(train, lmkit, jsonl, tmp_path):
    train("prompt_tuning:num_virtual_tokens=2")

    measured = lmkit("evaluate", tmp_path / "run", "--data", jsonl(ROWS[:4]), "--json")
    answered = lmkit("generate", tmp_path / "run", "--set", "prompt=네?", "--max-new-tokens", 4)

    assert json.loads(measured.out)["records"] == 4
    assert answered.code == 0, answered.err


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("loro", "no adapter named 'loro'"),
        ("lora:rank=8", "no option of Lora named 'rank'"),
        ("lora:r=0", "r is 0; expected a whole number of 1 or more"),
        ("lora:target_modules=q_porj", "close to: q_proj"),
        ("prompt_tuning:num_virtual_tokens=0", "num_virtual_tokens is 0"),
        ("prompt_tuning", "does not say num_virtual_tokens="),
    ],
)
def test_what_is_wrong_with_one_is_a_users_error_and_leaves_no_run(train, tmp_path, adapter, words):
    done = train(adapter)

    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()
