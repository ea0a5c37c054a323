"""The demo: packaged data, and the whole path in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lmkit.demo
from lmkit.cli.main import run
from lmkit.records import read

FOLDER = Path(lmkit.demo.__file__).parent


def test_the_packaged_data_is_small_and_carries_its_licence():
    data = FOLDER / "ko_chat_qa.jsonl"

    assert data.stat().st_size <= 400_000
    assert all(set(row) == {"prompt", "completion"} for row in read(data))
    assert "MIT License" in (FOLDER / "NOTICE").read_text("utf-8")


@pytest.mark.slow
def test_the_demo_leaves_a_run_and_a_bundle_and_says_what_it_measured(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("torch")
    from lmkit.demo import path

    monkeypatch.setattr(path, "TRAINING", {**path.TRAINING, "num_train_epochs": 1})
    output = tmp_path / "demo"

    code = run(["demo", "--output", str(output), "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert facts["heavy_packages_in_the_answering_process"] == []
    assert facts["parity"]["greedy_tokens_equal"]
    assert facts["perplexity_after"] < facts["perplexity_before"]
    assert facts["perplexity_of_the_bundle"] == pytest.approx(facts["perplexity_after"], rel=1e-4)
    assert len(facts["answers_after"]) == len(facts["questions"]) == len(facts["learned"])
    assert set(facts["tokens_per_second"]) == {"generate()", "bundle"}
    assert (output / "run" / "model.safetensors").is_file()
    assert run(["verify", str(output / "bundle")]) == 0


@pytest.mark.slow
def test_a_second_demo_does_not_overwrite_the_first(tmp_path, capsys):
    pytest.importorskip("torch")
    (tmp_path / "demo" / "run").mkdir(parents=True)
    (tmp_path / "demo" / "run" / "task.json").write_text("mine")

    code = run(["demo", "--output", str(tmp_path / "demo")])

    assert code == 1
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "demo" / "run" / "task.json").read_text() == "mine"
