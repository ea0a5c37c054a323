"""Fifty plugins at once, and what is wrong with some of them, as a shell shows it."""

import json
import re
import resource
import statistics
import subprocess
import sys

import pytest

from plugins.distributions import TASK, environment, install, lmkit

# Where a plugin is imported it says so in a file, for the verbs that must not do it.
MARK = """
import os
if "MARK" in os.environ:
    open(os.environ["MARK"], "a").close()
"""
HEAVY = MARK + "import torch\n" + TASK.format(task="heavy")
COMMAND = """
import click
import lmkit as lk

@click.command("count-lines")
def count_lines():
    "Count."
    click.echo("three")

@click.command("train")
def train():
    "Train otherwise."

print("hello from a plugin")

@lk.hookimpl
def lmkit_commands():
    return [count_lines, train]
"""
GOOD = [f"good{n:02}" for n in range(44)]


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    """Return a folder with fifty distributions, and a torch that is as slow as the real one."""
    folder = tmp_path_factory.mktemp("site")
    for name in GOOD:
        install(folder, name, MARK + TASK.format(task=name))
    install(folder, "broken", "\n\nimport no_such_package\n")
    install(folder, "heavy", HEAVY)
    install(folder, "misspelt", TASK.format(task="misspelt").replace("lmkit_tasks", "lmkit_taks"))
    for name in ("twin_a", "twin_b"):
        entry_points = f"[lmkit]\n{name.replace('_', '-')} = lmkit_{name}\n"
        install(folder, name, TASK.format(task="twin"), entry_points=entry_points)
    install(folder, "verbs", COMMAND)
    (folder / "torch.py").write_text("import time\ntime.sleep(0.2)\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def tasks(fifty):
    return lmkit("tasks", "--json", folder=fifty)


@pytest.fixture(scope="module")
def listed(fifty):
    return lmkit("plugins", folder=fifty, LMKIT_DISABLE_PLUGINS="good01")


@pytest.fixture(scope="module")
def facts(fifty):
    done = lmkit("plugins", "--json", folder=fifty, LMKIT_DISABLE_PLUGINS="good01")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows(facts):
    return {row["name"]: row for row in facts["plugins"]}


def test_there_are_fifty(fifty):
    assert len(list(fifty.glob("*.dist-info"))) == 50


class TestTheTool:
    def test_it_starts_and_lists_every_task_that_is_whole(self, tasks):
        names = {task["name"] for task in json.loads(tasks.stdout)}

        assert tasks.returncode == 0
        assert names >= {"chat", "qa", "heavy", *GOOD}
        assert not names & {"broken", "misspelt", "twin"}

    def test_it_says_once_of_each_plugin_what_is_wrong_with_it(self, tasks):
        lines = tasks.stderr.splitlines()

        assert lines.pop(0) == "hello from a plugin"  # on standard output it would spoil the JSON
        stalled = (
            "is slow: it takes"  # as any of them may, on a machine that has stopped for a second
        )
        told = [re.sub(r"\(\d+\.\d s\)", "(... s)", line) for line in lines if stalled not in line]
        assert told == [
            "warning: the plugin 'broken' (lmkit-broken 1.0) is left out: ModuleNotFoundError: No module "
            "named 'no_such_package'; LMKIT_DISABLE_PLUGINS=broken silences this",
            "warning: the plugin 'heavy' (lmkit-heavy 1.0) is slow: it imports torch when it is loaded "
            "(... s), which belongs inside functions; LMKIT_DISABLE_PLUGINS=heavy leaves it out",
            "warning: the plugin 'misspelt' (lmkit-misspelt 1.0) is left out: there is no hook "
            "'lmkit_taks'; close to: lmkit_tasks, lmkit_commands, lmkit_components; "
            "LMKIT_DISABLE_PLUGINS=misspelt silences this",
            "warning: the task 'twin' cannot be used, since lmkit-twin_a 1.0 and lmkit-twin_b 1.0 each "
            "have one; 'lmkit plugins' says what to do",
            "warning: the verb 'train' of lmkit-verbs 1.0 is not added: lmkit has one of that name, and "
            "built-in names cannot be taken",
        ]

    def test_a_verb_that_a_plugin_adds_is_there(self, fifty):
        assert lmkit("count-lines", folder=fifty).stdout == "three\n"

    def test_a_name_that_two_plugins_have_is_refused_with_both_and_the_others_work(self, fifty):
        twin, good = lmkit("show", "twin", folder=fifty), lmkit("show", GOOD[0], folder=fifty)

        assert good.returncode == 0
        assert twin.returncode == 1
        assert (
            "error: two tasks are named 'twin': one from lmkit-twin_a 1.0, one from lmkit-twin_b 1.0"
            in twin.stderr
        )

    def test_a_broken_plugin_is_remembered_where_its_task_is_looked_for(self, fifty):
        shown = lmkit("show", "misspelt", folder=fifty)

        assert shown.returncode == 1
        assert "the plugin 'misspelt' (lmkit-misspelt 1.0) is broken" in shown.stderr

    def test_help_says_nothing_of_plugins_and_imports_none(self, fifty, tmp_path):
        mark = tmp_path / "imported"

        shown = lmkit("--help", folder=fifty, MARK=str(mark))

        assert shown.stderr == ""
        assert not mark.exists()
        lmkit("tasks", folder=fifty, MARK=str(mark))
        assert mark.exists()


class TestTheList:
    def test_a_row_says_where_a_plugin_is_from_and_what_it_adds(self, rows, fifty):
        row = rows["good00"]

        assert (row["distribution"], row["version"], row["state"]) == ("lmkit-good00", "1.0", "ok")
        assert row["path"] == str(fifty / "lmkit_good00.py")
        assert (row["tasks"], row["commands"], row["components"]) == (["good00"], [], [])
        assert rows["verbs"]["commands"] == ["count-lines", "train"]

    def test_a_broken_one_has_its_place_and_the_line_that_fails(self, rows, fifty):
        file = str(fifty / "lmkit_broken.py")

        assert rows["broken"]["state"] == "broken"
        assert (rows["broken"]["path"], rows["broken"]["where"]) == (file, f"{file}:3")

    def test_a_slow_one_has_its_seconds_and_what_it_imported(self, rows):
        assert rows["heavy"]["state"] == "slow"
        assert rows["heavy"]["heavy"] == ["torch"]
        assert rows["heavy"]["seconds"] >= 0.2
        assert [name for name, row in rows.items() if row["heavy"]] == ["heavy"]

    def test_what_a_switch_leaves_out_is_listed_apart(self, facts, rows):
        [row] = facts["left_out"]

        assert (row["name"], row["left_out_by"]) == ("good01", "LMKIT_DISABLE_PLUGINS")
        assert "good01" not in rows
        assert facts["switches"]["LMKIT_DISABLE_PLUGINS"] == "good01"

    def test_conflicts_are_told_with_both_sides(self, facts):
        assert len(facts["conflicts"]) == 2
        assert "one from lmkit-twin_a 1.0, one from lmkit-twin_b 1.0" in facts["conflicts"][0]

    def test_a_reader_finds_the_same_below_the_table_and_no_warnings_beside_it(self, listed, fifty):
        assert listed.stderr == "hello from a plugin\n"
        for line in (
            f"broken: 'broken': ModuleNotFoundError: No module named 'no_such_package' "
            f"({fifty / 'lmkit_broken.py'}:3)",
            "broken: 'misspelt': there is no hook 'lmkit_taks'; close to: lmkit_tasks",
            "slow: 'heavy': it imports torch when it is loaded",
            "left out: 'good01' (lmkit-good01 1.0), by LMKIT_DISABLE_PLUGINS",
            "conflict: two tasks are named 'twin'",
        ):
            assert listed.stdout.count(line) == 1


class TestStrictness:
    def test_the_first_broken_plugin_stops_a_strict_tool_and_shows_its_own_lines(self, fifty):
        done = lmkit("tasks", folder=fifty, LMKIT_STRICT_PLUGINS="1")

        assert (done.returncode, done.stdout) == (1, "")
        assert "error: the plugin 'broken' (lmkit-broken 1.0) is broken" in done.stderr
        _, _, traceback = done.stderr.partition("Traceback (most recent call last):\n")
        assert traceback.splitlines() == [
            f'  File "{fifty / "lmkit_broken.py"}", line 3, in <module>',
            "    import no_such_package",
            "ModuleNotFoundError: No module named 'no_such_package'",
        ]

    def test_a_conflict_stops_it_as_well(self, fifty):
        done = lmkit("tasks", folder=fifty, LMKIT_STRICT_PLUGINS="1", LMKIT_PLUGINS="twin-a,twin-b")

        assert done.returncode == 1
        assert "two tasks are named 'twin'" in done.stderr

    def test_0_is_not_strict(self, fifty):
        assert lmkit("tasks", folder=fifty, LMKIT_STRICT_PLUGINS="0").returncode == 0


class TestSpeed:
    """Figures are the processor's seconds, medians, one way in turn with the other."""

    def test_help_takes_as_long_with_fifty_plugins_as_with_none(self, fifty):
        without, plugged = in_turns(5, ("--help", None), ("--help", fifty))

        assert plugged < without + 0.25

    def test_looking_at_tasks_takes_what_the_plugins_do_and_little_more(self, fifty):
        """Their own cost is what an interpreter takes for their modules that has what they need."""
        modules = [f"lmkit_{name}" for name in (*GOOD, "twin_a", "twin_b", "verbs")]
        imports = "import lmkit.task, lmkit.collating.causal, click\n"
        loops = "import importlib\nfor name in {}: m = importlib.import_module(name)\n"
        loops += "for hook in [v for n, v in vars(m).items() if n == 'lmkit_tasks']: hook()\n"
        own = seconds(["-c", imports + loops.format(modules)], fifty) - seconds(["-c", imports])
        environ = {"LMKIT_DISABLE_PLUGINS": "heavy"}  # which sleeps, and so costs no processor

        without, plugged = in_turns(3, ("tasks", None), ("tasks", fifty), **environ)

        assert plugged < without + max(own, 0) + 0.25


def in_turns(rounds, *calls, **environ):
    """Return the median seconds of some calls, each a verb and where plugins are."""
    figures = [
        [seconds(["-m", "lmkit", verb], folder, **environ) for verb, folder in calls]
        for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*figures, strict=True)]


def seconds(command, folder=None, **environ):
    """Return the processor's seconds that an interpreter takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = environment(folder, **environ)
    subprocess.run([sys.executable, *command], env=environ, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
