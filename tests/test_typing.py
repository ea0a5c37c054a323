"""What a type checker says of the DSL: nothing where it is used well, and what is wrong where not."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / "typing"
ERROR = re.compile(r"(?P<file>\w+\.py):(?P<line>\d+): error: (?P<says>.*)")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what mypy says of both files, strictly: file to line to its errors."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"),
            *("--cache-dir", tmp_path_factory.mktemp("mypy"), "use.py", "misuse.py"),
        ],
        cwd=EXAMPLES,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = defaultdict(lambda: defaultdict(list))
    for line in done.stdout.splitlines():
        if found := ERROR.fullmatch(line):
            said[found["file"]][int(found["line"])].append(found["says"])
    return said


def test_use_is_silent(said):
    assert said.pop("use.py", {}) == {}


def test_misuse_is_refused_line_by_line_and_nothing_else_is(said):
    lines = (EXAMPLES / "misuse.py").read_text("utf-8").splitlines()
    expected = {
        number + 1: line.split("# E: ")[1]
        for number, line in enumerate(lines, 1)
        if line.strip().startswith("# E: ")
    }
    errors = said["misuse.py"]

    assert sorted(errors) == sorted(expected)
    for number, words in expected.items():
        assert all(words in text for text in errors[number]), (lines[number - 1], errors[number])
