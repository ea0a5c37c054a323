"""What is found when distributions are in a sorry state, as half-removed or hand-made ones are."""

import json

import pytest

from lmkit.plugins.finding import find
from plugins.distributions import TASK, install, lmkit

UNREADABLE = {
    "a line without an equals sign": "[lmkit]\nodd\n",
    "a byte that is no text": b"[lmkit]\nodd = lmkit_\xff\n",
}


def names(finding):
    return {entry_point.name for entry_point in finding.entry_points}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a folder on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_plugin_is_found_without_being_imported(site):
    install(site, "good", "raise SystemExit")

    assert names(find()) >= {"good", "chat"}
    assert find().unreadable == ()


@pytest.mark.parametrize("entry_points", UNREADABLE.values(), ids=UNREADABLE)
def test_entry_points_that_cannot_be_read_are_a_broken_row_and_hide_no_other(site, entry_points):
    """`importlib.metadata` itself gives up on all distributions then."""
    install(site, "odd", "", entry_points=entry_points)
    install(site, "good", "")

    found = find()

    [row] = found.unreadable
    assert (row.distribution, row.version, row.path) == ("lmkit-odd", "1.0", str(site))
    assert "its entry_points.txt cannot be read" in row.error
    assert names(found) >= {"good", "chat"}


def test_a_strangers_unreadable_entry_points_are_none_of_our_business(site):
    metadata = "Metadata-Version: 2.1\nName: somebody\nVersion: 1\n"
    install(site, "x", "", entry_points="[console_scripts]\nodd\n", metadata=metadata)
    install(site, "good", "")

    found = find()

    assert found.unreadable == ()
    assert names(found) >= {"good", "chat"}


class TestInAShell:
    @pytest.mark.parametrize("entry_points", UNREADABLE.values(), ids=UNREADABLE)
    def test_the_tool_starts_and_says_which_distribution_it_is(self, tmp_path, entry_points):
        install(tmp_path, "odd", "", entry_points=entry_points)

        done = lmkit("tasks", "--json", folder=tmp_path)

        assert "chat" in {task["name"] for task in json.loads(done.stdout)}
        assert done.stderr.count("lmkit-odd 1.0") == 1

    def test_a_plugin_whose_metadata_is_gone_still_works(self, tmp_path):
        """What an interrupted uninstall leaves behind."""
        install(tmp_path, "half", TASK.format(task="half"), metadata="")

        done = lmkit("plugins", "--json", folder=tmp_path)

        [row] = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "half"]
        assert (row["distribution"], row["version"]) == ("a distribution without METADATA", None)
        assert row["tasks"] == ["half"]

    def test_an_entry_point_that_names_no_module_is_a_broken_row(self, tmp_path):
        install(tmp_path, "odd", "", entry_points="[lmkit]\nodd = no module!\n")

        done = lmkit("plugins", "--json", folder=tmp_path)

        [row] = [row for row in json.loads(done.stdout)["plugins"] if row["name"] == "odd"]
        assert row["state"] == "broken"
