"""The full comparison (tests/benchmarks/compare.py), with sides that are made up."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from lmkit.errors import LmkitError

from .reports import report

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import compare
import starting
from parts import PARTS


@pytest.fixture
def folder(tmp_path, bundle):
    """A folder that has our bundles, all of them a toy."""
    for part in PARTS.values():
        if not (tmp_path / "models" / part.bundle).exists():
            shutil.copytree(bundle, tmp_path / "models" / part.bundle)
    return tmp_path


@pytest.fixture
def measured(monkeypatch):
    """Return the bundles that were measured; a masked one fails."""
    asked = []

    def bench(bundle, **options):
        asked.append(bundle.name)
        if "distilbert" in bundle.name:
            raise LmkitError("no such luck")
        return report()

    monkeypatch.setattr(compare, "bench", bench)
    return asked


def run(folder, *arguments):
    return compare.main(["run", "--folder", str(folder), *arguments])


def test_a_part_that_fails_loses_no_other_and_what_is_measured_is_kept(folder, measured, capsys):
    code = run(folder, "--parts", "masked,int8,seq2seq")

    assert code == 1
    assert sorted(file.stem for file in (folder / "results").iterdir()) == ["int8", "seq2seq"]
    assert "masked failed: no such luck" in capsys.readouterr().err

    del measured[:]
    assert run(folder, "--parts", "int8,seq2seq") == 0
    assert not measured
    assert run(folder, "--parts", "int8", "--rounds", "7") == 0  # other settings, another result
    assert measured == ["lmkit"]


def test_the_time_it_takes_is_said_first(folder, measured, capsys):
    run(folder, "--parts", "int8,seq2seq", "--rounds", "3")
    expected = sum(PARTS[name].seconds(3) for name in ("int8", "seq2seq"))

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"about {compare.clock(expected)} on two idle cores: int8 ")
    assert said[1].startswith("[1/2] int8")


def test_a_part_that_there_is_not_is_refused(folder, measured, capsys):
    assert run(folder, "--parts", "int5") == 2
    assert "no part named int5" in capsys.readouterr().err


def test_results_become_a_document_with_goals_tables_and_pictures(folder, measured):
    run(folder, "--parts", "int8")
    compare.main(["write", "--folder", str(folder), "--docs", str(folder / "docs")])
    text = (folder / "docs" / "benchmarks.md").read_text("utf-8")

    assert "| int8 decode, OpenVINO | - | - | - | 1.3x (1.6x) | not measured |  |" in text
    assert "| 16 + 3 tokens | peer |" in text
    assert "- versions: lmkit 1.0; peer 1.0" in text
    assert "Not measured: int4, fp32" in text
    assert (folder / "docs" / "benchmarks-int8.svg").read_text("utf-8").startswith("<svg")


def test_a_start_is_timed_until_the_first_text_and_not_to_the_end(tmp_path):
    late = "import time; print('a', flush=True); time.sleep(1.5)"
    took = starting.first_text_s([sys.executable, "-c", late], threads=1, kept=tmp_path)

    assert 0 < took < 1.5


def test_a_side_that_does_not_start_is_named_with_its_last_words(tmp_path):
    good = starting.Starting("good", [sys.executable, "-c", "print(1)"], "a script")
    bad = starting.Starting("bad", [sys.executable, "-c", "raise OSError('no model')"], "a script")
    found = starting.measure(
        [bad, good], rounds=2, threads=1, kept=tmp_path, on_progress=lambda *_: None
    )

    assert found["skipped"] == [{"title": "bad", "reason": "exit code 1: OSError: no model"}]
    assert [side["title"] for side in found["results"]] == ["good"]
    assert found["results"][0]["start_s"]["low"] > 0


def test_weights_are_counted_in_fp32_whatever_they_are_stored_as(tmp_path):
    header = {"a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}, "__metadata__": {}}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    assert compare.fp32_bytes(tmp_path) == 4 * 12
