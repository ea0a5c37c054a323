"""Every example runs as it is, offline, and fits on a screen or two."""

from pathlib import Path

import pytest
from forks import Forks

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


@pytest.fixture(scope="module")
def forks():
    with Forks({"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}) as forks:
        yield forks


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_runs_and_shows_something(script, forks, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()

    code, printed, told = forks.run(script, folder=folder, output=tmp_path)

    assert code == 0, told
    assert printed.strip()
    for text in SHOWN.get(script.name, ()):
        assert text in printed
    assert not list(folder.iterdir())
