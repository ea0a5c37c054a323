"""The pytest plugin, as pytest loads it in a process of its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PLUGIN = "lmkit.testing.pytest_plugin"

PASSING = """
import lmkit as lk
import pytest

def test_all_fixtures(check_task, toy_tokenizer, tokenizers, tiny_model, sample_records):
    assert toy_tokenizer.decode(toy_tokenizer.encode("네")) == "네"
    assert list(tokenizers("masked")) == ["toy", "wordpiece"]
    assert tiny_model("causal").model_type == "llama"
    report = check_task(lk.get_task("qa"), sample_records("causal"), promises=["prompt", "end"])
    assert report.kept == ("prompt", "end")
"""

FAILING = """
import lmkit as lk
from lmkit.testing import check_task

TASK = lk.Task(
    name="haiku",
    formatter=lk.context("{season}\\n") + lk.target("* {poem}"),
    collator=lk.CausalCollator(),
    decoder=lk.TextDecoder(),
)

def test_the_promises():
    check_task(TASK, [{"season": "봄", "poem": "꽃"}], promises=["decode"])
"""

OWN_CODE_FAILS = """
import attrs
import lmkit as lk
from lmkit.testing import check_task

class Reader:
    families = frozenset({lk.Family.CAUSAL})
    stop = ()

    def read(self, text):
        return text.split("|")[1]

def test_the_promises():
    task = lk.get_task("qa").evolve(decoder=Reader())
    check_task(task, [{"prompt": "a", "completion": "b"}], promises=["decode"])
"""

WITHOUT_TORCH = """
import importlib.util
import lmkit as lk

def test_the_promises(check_task, sample_records, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_task(lk.get_task("qa"), sample_records("causal"), promises=["prompt", "overfits", "exports"])
"""


def run(tmp_path, text, *options):
    """Run pytest on a file with the plugin, and with no other; return the process."""
    (tmp_path / "test_it.py").write_text(text, "utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_pytest_finds_it_by_its_entry_point():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"lmkit": PLUGIN}


@pytest.mark.parametrize("module", [PLUGIN, "lmkit.testing"])
def test_it_is_light_to_import(module):
    """It is imported in every run of pytest where lmkit is installed, whatever is tested."""
    script = (
        f"import sys, pytest; before = set(sys.modules); import {module};"
        "print(sorted({n for n in sys.modules if n not in before and '.' not in n}));"
        "print(sorted(n for n in sys.modules if n.startswith('lmkit')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    tops, ours = map(eval, done.stdout.splitlines())

    assert tops == ["lmkit"]
    assert ours == sorted({"lmkit", "lmkit.testing", module})


def test_its_fixtures_are_what_the_package_has(tmp_path):
    done = run(tmp_path, PASSING, "-q", "-W", "error")

    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("1 passed")


def test_its_fixtures_say_what_they_are(tmp_path):
    listed = run(tmp_path, PASSING, "--fixtures").stdout

    for name in ("toy_tokenizer", "tokenizers", "tiny_model", "sample_records", "check_task"):
        assert f"\n{name}" in listed
        assert f"\n{name} -- no docstring" not in listed


def test_a_failure_is_shown_without_a_line_of_lmkits_own(tmp_path):
    shown = run(tmp_path, FAILING).stdout

    assert (
        "E       lmkit.testing.broken.PromiseBroken: task 'haiku' breaks its promise 'decode'"
        in shown
    )
    assert "reads '* 꽃' where the record says '꽃'" in shown
    assert "checking.py" not in shown
    assert "test_it.py:13: PromiseBroken" in shown


def test_a_failure_within_a_part_shows_that_part(tmp_path):
    shown = run(tmp_path, OWN_CODE_FAILS).stdout

    assert 'return text.split("|")[1]' in shown
    assert "it fails with IndexError: list index out of range" in shown
    assert "lmkit/" not in shown.replace(PLUGIN, "")


def test_what_could_not_be_checked_is_said_at_the_end(tmp_path):
    done = run(tmp_path, WITHOUT_TORCH)

    assert done.returncode == 0, done.stdout
    assert "task 'qa': overfits and exports not checked: " in done.stdout
    assert "pip install 'lmkit-tasks[train]'" in done.stdout
