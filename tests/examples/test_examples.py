"""Every example runs as it is, offline, and fits on a screen or two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

# What must be among a script's output; of a script that is not here, that there is some.
SHOWN = {
    "rename_map_where.py": ["18 of them learned from", "-> 파란색이에요.", "-> It is white."],
    "mixture.py": ["mix({'ko-qa': 3, 'alpaca': 1})", "하얀색이에요.", "'안녕하세요!': 9"],
    "chain.py": [
        "-> 철수가 훔쳤다. -> 유죄",
        "-> 영희가 샀다. -> 무죄",
        "link 1 of the chain ('facts')",
    ],
}


def test_there_are_examples():
    assert SHOWN.keys() <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_is_under_sixty_lines(script):
    assert len(script.read_text("utf-8").splitlines()) < 60


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_runs_and_shows_something(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for text in SHOWN.get(script.name, ()):
        assert text in done.stdout
    assert not list(tmp_path.iterdir())
