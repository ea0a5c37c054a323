"""A plugin that was written for an earlier version, and what was trained and exported with it."""

import json
import subprocess
import sys

import pytest
from plugins.distributions import environment, install, lmkit

from compat.archives import HAIKU, SAVED, unpacked

ASK = """
import json, sys
import lmkit as lk
from lmkit.answering import open_answerer

what, records = sys.argv[1], json.loads(sys.argv[2])
ask = open_answerer(what) if what.endswith("run") else lk.load(what)
answers = [ask(record, max_new_tokens=24, temperature=0) for record in records]
print(json.dumps([[answer.text, answer.value] for answer in answers]))
"""


@pytest.fixture(scope="module")
def haiku(tmp_path_factory):
    return unpacked(HAIKU, tmp_path_factory.mktemp("haiku"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder in which the plugin is installed as it was then."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "haiku", (SAVED / "issue-2-lmkit_haiku.py").read_text("utf-8"), version="0.1.0")
    return folder


def test_it_is_loaded_without_a_word(site):
    listed = lmkit("plugins", "--json", folder=site)

    [row] = [row for row in json.loads(listed.stdout)["plugins"] if row["name"] == "haiku"]
    assert (row["state"], row["deprecated"]) == ("ok", [])
    assert (row["tasks"], row["components"], row["commands"]) == (
        ["haiku"],
        ["haiku:HaikuDecoder"],
        ["haiku-lines"],
    )
    assert listed.stderr == ""


@pytest.mark.parametrize("what", ["bundle", "run"])
def test_what_was_made_with_it_answers_as_it_did(haiku, site, what):
    records = json.dumps([was["record"] for was in haiku.answers])

    done = subprocess.run(
        [sys.executable, "-c", ASK, str(haiku.folder / what), records],
        env=environment(site),
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) == [[was["text"], was["value"]] for was in haiku.answers]


def test_a_machine_without_it_is_told_what_to_install(haiku):
    done = lmkit("generate", haiku.bundle, "--set", "subject=바다")

    assert done.returncode == 1
    assert "pip install 'lmkit-haiku==0.1.0'" in done.stderr


def test_a_run_of_then_did_not_write_that_down_and_names_the_plugin(haiku):
    done = lmkit("show", haiku.run / "task.json")

    assert done.returncode == 1
    assert "needs haiku:HaikuDecoder" in done.stderr
    assert "install the plugin 'haiku'" in done.stderr
