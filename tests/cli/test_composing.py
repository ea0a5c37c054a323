"""Verbs with tasks that were renamed, mixed and chained."""

import json

import pytest
from exported import ROWS

import lmkit as lk

MODEL = "scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=64"
ASKED = [{"question": row["prompt"], "completion": row["completion"]} for row in ROWS]
SHORT = ("--set", "max_steps=2", "--set", "use_cpu=true", "--set", "save_strategy=no")


@pytest.mark.slow
class TestRename:
    def test_a_run_reads_the_datas_columns_from_then_on(self, lmkit, jsonl, tmp_path):
        data = jsonl(ASKED)
        done = lmkit(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", data),
            *("--rename", "question=prompt", "--output", tmp_path / "run", *SHORT),
        )
        measured = lmkit("evaluate", tmp_path / "run", "--data", data, "--json")

        assert done.code == 0, done.err
        assert lk.get_task(tmp_path / "run").columns == ("question", "completion")
        assert json.loads(measured.out)["records"] == len(ASKED)

    def test_a_bundle_of_a_named_task_too(self, lmkit, tiny_run, tmp_path):
        done = lmkit(
            *("export", tiny_run, "--task", "qa", "--rename", "질문=prompt"),
            *("--output", tmp_path / "bundle"),
        )
        asked = lmkit("generate", tmp_path / "bundle", "--set", "질문=안녕하세요?")

        assert done.code == 0, done.err
        assert asked.code == 0, asked.err
        assert asked.out.strip()

    def test_the_wrong_way_round_is_told_the_right_one(self, lmkit, jsonl, tmp_path):
        done = lmkit(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char", "--data", jsonl(ASKED)),
            *("--rename", "prompt=question", "--output", tmp_path / "run"),
        )

        assert done.code == 1
        assert "did you mean rename(question='prompt')?" in done.err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["question", "=prompt"])
def test_a_rename_that_is_no_pair_is_usage(lmkit, given):
    done = lmkit(
        *("train", "qa", "--model", "m", "--data", "d", "--output", "o", "--rename", given)
    )

    assert done.code == 2
    assert "expected DATA_COLUMN=TASK_COLUMN" in done.err


def test_a_rename_without_a_task_is_usage(lmkit):
    assert lmkit("export", "run", "--output", "o", "--rename", "a=b").code == 2
