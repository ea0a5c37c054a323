import importlib.metadata
import json
import os
import subprocess
import sys
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import attrs
import click
import pytest

from lmkit.collating.causal import CausalCollator
from lmkit.decoding.text import TextDecoder
from lmkit.errors import DuplicateName, PluginError, UnknownTask
from lmkit.family import Family
from lmkit.formatting import context, target
from lmkit.hooks import hookimpl
from lmkit.plugins import PluginWarning, costs, distributions_of, installed, load
from lmkit.registry import get_task, plugins
from lmkit.saving.jsonform import from_json, to_json
from lmkit.task import Task

BUILT_IN = {"chat", "alpaca", "qa"}


@attrs.frozen
class Shout:
    """A decoder of the kind that a plugin would bring."""

    stop: tuple[str, ...] = ()
    families = frozenset({Family.CAUSAL})

    def read(self, text):
        return text.upper()


def task(name, decoder=None):
    return Task(
        name=name,
        formatter=context("{q}") + target("{a}"),
        collator=CausalCollator(),
        decoder=decoder or TextDecoder(),
    )


def module(*, tasks=(), components=(), commands=(), **more):
    """Return a plugin's module, as `import` would."""
    made = types.ModuleType("a_plugin")
    hooks = {"lmkit_tasks": tasks, "lmkit_components": components, "lmkit_commands": commands}
    for name, results in hooks.items():
        if results:
            setattr(made, name, hookimpl(lambda results=results: results))
    vars(made).update(more)
    return made


@attrs.frozen
class Distribution:
    name: str
    version: str = "1.0"

    @property
    def metadata(self):
        return {"Name": self.name, "Version": self.version}


@attrs.frozen
class EntryPoint:
    """Stands in for what importlib.metadata finds; `found` is a module, or what importing raises."""

    name: str
    found: object = attrs.field(hash=False)
    dist: Distribution | None = None

    @property
    def value(self):
        return f"lmkit_{self.name}"

    def load(self):
        if isinstance(self.found, BaseException):
            raise self.found
        return self.found


def third_party(name, found):
    return EntryPoint(name, found, Distribution(f"lmkit-{name}"))


def built_in(name, found):
    return EntryPoint(name, found, Distribution("lmkit-tasks"))


def error_of(result, name):
    return next(plugin.error for plugin in result.plugins if plugin.name == name)


def load_broken(found):
    """Load one broken plugin beside a good one; return its error, and check that the rest works."""
    with pytest.warns(PluginWarning, match=r"'bad' \(lmkit-bad 1.0\) is left out") as warned:
        result = load(
            [third_party("bad", found), third_party("good", module(tasks=[task("t")]))], {}
        )

    assert len(warned) == 1
    assert set(result.tasks) == {"t"}
    return error_of(result, "bad")


class TestLoading:
    def test_a_plugin_is_a_row_with_what_it_offers(self):
        @click.command()
        def count():
            pass

        result = load(
            [third_party("p", module(tasks=[task("t")], components=[Shout], commands=[count]))], {}
        )

        [row] = result.plugins
        assert (row.name, row.distribution, row.version) == ("p", "lmkit-p", "1.0")
        assert (row.tasks, row.components, row.commands) == (("t",), ("p:Shout",), ("count",))
        assert row.error is None
        assert result.commands["count"] is count

    def test_tasks_come_sorted_by_name(self):
        result = load([third_party("p", module(tasks=[task("b"), task("a")]))], {})

        assert list(result.tasks) == ["a", "b"]

    def test_a_plugin_may_offer_nothing(self):
        assert load([third_party("p", module())], {}).plugins[0].error is None

    def test_hooks_may_be_generators(self):
        @hookimpl
        def lmkit_tasks():
            yield task("t")

        assert set(load([third_party("p", module(lmkit_tasks=lmkit_tasks))], {}).tasks) == {"t"}

    def test_the_plugin_of_a_task_is_known(self):
        result = load([third_party("p", module(tasks=[task("t")]))], {})

        assert result.plugin_of("t").name == "p"
        assert result.plugin_of("other") is None

    def test_what_was_loaded_cannot_be_changed(self):
        result = load([third_party("p", module(tasks=[task("t")]))], {})

        with pytest.raises(TypeError):
            result.tasks["u"] = task("u")


class TestABrokenPlugin:
    def test_an_import_that_fails_costs_only_its_own_tasks(self):
        assert load_broken(ImportError("no module named 'torch'")) == (
            "ImportError: no module named 'torch'"
        )

    def test_one_that_exits_while_being_imported_does_not_exit_lmkit(self):
        """A script registered by mistake ends in sys.exit()."""
        assert load_broken(SystemExit(3)) == "SystemExit: 3"

    def test_ctrl_c_while_importing_is_the_users_and_passes_through(self):
        with pytest.raises(KeyboardInterrupt):
            load([third_party("bad", KeyboardInterrupt())], {})

    def test_a_misspelt_hook_is_an_error_with_the_near_name(self):
        error = load_broken(module(lmkit_taks=hookimpl(lambda: ())))

        assert error.startswith("there is no hook 'lmkit_taks'; close to: lmkit_tasks")

    def test_a_hook_without_its_marker_is_an_error(self):
        """Otherwise the plugin would offer nothing, and say nothing."""
        assert load_broken(module(lmkit_tasks=lambda: [task("u")])) == (
            "its 'lmkit_tasks' is not marked with @hookimpl"
        )

    def test_a_hook_with_arguments_that_it_is_not_given_is_an_error(self):
        assert "PluginValidationError" in load_broken(module(lmkit_tasks=hookimpl(lambda x: [])))

    def test_two_mistakes_in_one_plugin_do_not_stop_the_others(self):
        """pluggy registers hook by hook: the first is in place when the second is refused."""
        error = load_broken(
            module(lmkit_comands=hookimpl(lambda: ()), lmkit_tasks=hookimpl(lambda x: []))
        )

        assert "PluginValidationError" in error

    def test_a_hook_that_raises_is_an_error(self):
        @hookimpl
        def lmkit_tasks():
            yield task("u")
            raise ValueError("halfway")

        assert load_broken(module(lmkit_tasks=lmkit_tasks)) == "ValueError: halfway"

    def test_what_is_no_task_is_named(self):
        assert (
            load_broken(module(tasks=["chat"])) == "lmkit_tasks returned 'chat', which is no Task"
        )

    @pytest.mark.parametrize("component", [TextDecoder(), dict])
    def test_what_is_no_component_is_named(self, component):
        assert "which is no attrs class" in load_broken(module(components=[component]))

    def test_a_task_instead_of_a_list_of_tasks_is_named_with_what_was_expected(self):
        error = load_broken(module(lmkit_tasks=hookimpl(lambda: task("u"))))

        assert error.endswith("expected a list, such as [a Task]")

    def test_a_hook_that_returns_nothing_is_named(self):
        """A `return` was forgotten."""
        assert load_broken(module(lmkit_commands=hookimpl(lambda: None))) == (
            "lmkit_commands returned None; expected a list, such as [a click command]"
        )

    @pytest.mark.parametrize("command", [len, click.Command(None)])
    def test_what_is_no_command_is_named(self, command):
        assert load_broken(module(commands=[command])).startswith("lmkit_commands returned ")

    def test_a_panic_of_a_compiled_package_stops_nobody(self):
        """Those of Rust derive from BaseException."""

        class PanicException(BaseException):
            pass

        assert load_broken(PanicException("at lib.rs:3")) == "PanicException: at lib.rs:3"

    def test_two_components_of_one_name_in_one_plugin_are_an_error(self):
        assert load_broken(module(components=[Shout, Shout])) == (
            "there are two components named 'Shout'"
        )

    def test_two_tasks_of_one_name_in_one_plugin_are_an_error(self):
        assert load_broken(module(tasks=[task("u"), task("u")])) == "there are two tasks named 'u'"

    def test_the_warning_says_how_to_silence_it(self):
        with pytest.warns(PluginWarning, match="LMKIT_DISABLE_PLUGINS=bad silences this"):
            load([third_party("bad", ValueError("x"))], {})

    def test_the_real_thing_is_loaded_and_so_warned_about_once(self, monkeypatch):
        found = [third_party("bad", ValueError("x"))]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        installed.cache_clear()
        try:
            with pytest.warns(PluginWarning) as warned:
                first, second = plugins(), plugins()
        finally:
            installed.cache_clear()

        assert first is second
        assert len(warned) == 1


class TestStrictness:
    """`LMKIT_STRICT_PLUGINS=1` is for the authors of plugins, and for checks of an environment."""

    STRICT = {"LMKIT_STRICT_PLUGINS": "1"}  # noqa: RUF012

    def test_a_broken_plugin_is_an_error_with_its_cause(self):
        cause = ValueError("why")

        with pytest.raises(
            PluginError, match=r"'bad' \(lmkit-bad 1.0\) is broken: ValueError: why"
        ) as caught:
            load([third_party("bad", cause)], self.STRICT)
        assert caught.value.__cause__ is cause

    def test_a_conflict_is_an_error(self):
        with pytest.raises(DuplicateName, match="two tasks are named 't'"):
            load([third_party(name, module(tasks=[task("t")])) for name in "ab"], self.STRICT)

    def test_what_is_whole_is_loaded(self):
        assert set(load([third_party("a", module(tasks=[task("t")]))], self.STRICT).tasks) == {"t"}


class TestCost:
    def test_a_plugin_that_takes_a_second_is_named_as_slow(self, monkeypatch):
        monkeypatch.setattr(costs, "SLOW_S", 0.0)

        with pytest.warns(
            PluginWarning, match=r"'a' \(lmkit-a 1.0\) is slow: it takes 0.0 s to load"
        ):
            result = load([third_party("a", module())], {})

        assert result.plugins[0].state == "slow"

    def test_a_heavy_package_that_was_there_before_is_nobodys_cost(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))

        assert load([third_party("a", module())], {}).plugins[0].cost.heavy == ()

    def test_a_heavy_package_that_a_hook_imports_is_the_plugins(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # to put back what was
        monkeypatch.delitem(sys.modules, "torch")

        @hookimpl
        def lmkit_tasks():
            sys.modules["torch"] = types.ModuleType("torch")
            return [task("t")]

        with pytest.warns(PluginWarning, match="is slow: it imports torch when it is loaded"):
            result = load([third_party("a", module(lmkit_tasks=lmkit_tasks))], {})

        assert result.plugins[0].cost.heavy == ("torch",)
        assert set(result.tasks) == {"t"}

    def test_what_a_plugin_prints_is_no_output_of_the_verb(self, capsys):
        @hookimpl
        def lmkit_tasks():
            print("hello")
            return []

        load([third_party("a", module(lmkit_tasks=lmkit_tasks))], {})

        assert capsys.readouterr() == ("", "hello\n")


class TestNamesTwice:
    """A name that two plugins have is nobody's, and every other name works."""

    @pytest.fixture
    def twins(self):
        """Return what two plugins offer that both have a task `t`, and one of them a task `u`."""
        with pytest.warns(PluginWarning, match="the task 't' cannot be used") as warned:
            result = load(
                [
                    third_party("one", module(tasks=[task("t")])),
                    third_party("two", module(tasks=[task("t"), task("u")])),
                ],
                {},
            )

        assert len(warned) == 1
        return result

    def test_two_tasks_of_one_name_name_both_distributions(self, twins):
        with pytest.raises(DuplicateName, match=r"'t': one from lmkit-one 1.0, one from lmkit-two"):
            twins.task("t")

    def test_the_other_tasks_of_both_stay(self, twins):
        assert set(twins.tasks) == {"u"}
        assert twins.task("u").name == "u"

    def test_plugins_can_be_listed_all_the_same(self, twins):
        """The list is where the user finds out what to remove."""
        assert [plugin.name for plugin in twins.plugins] == ["one", "two"]

    def test_a_built_in_name_cannot_be_taken_whoever_comes_first(self):
        with pytest.warns(PluginWarning, match="the task 'chat' cannot be used"):
            result = load(
                [
                    third_party("aaa", module(tasks=[task("chat")])),
                    built_in("zzz", module(tasks=[task("chat")])),
                ],
                {},
            )

        with pytest.raises(DuplicateName, match="built-in names cannot be taken") as caught:
            result.task("chat")
        assert "Uninstall lmkit-aaa, or set LMKIT_DISABLE_PLUGINS=aaa" in str(caught.value)

    def test_three_of_one_name_are_all_named(self):
        with pytest.warns(PluginWarning, match="'t' cannot be used") as warned:
            result = load([third_party(name, module(tasks=[task("t")])) for name in "abc"], {})

        [conflict] = result.conflicts
        assert str(conflict).startswith("3 tasks are named 't'")
        assert [f"lmkit-{name} 1.0" in str(conflict) for name in "abc"] == [True] * 3
        assert len(warned) == 1

    def test_a_broken_plugin_takes_no_name(self):
        halfway = module(tasks=[task("t")], components=[dict])
        with pytest.warns(PluginWarning, match="'bad' .* is left out"):
            result = load(
                [third_party("bad", halfway), third_party("good", module(tasks=[task("t")]))], {}
            )

        assert result.plugin_of("t").name == "good"

    def test_two_plugins_of_one_name_keep_the_first(self):
        with pytest.warns(PluginWarning, match="lmkit-tasks 1.0 has a plugin of the same name"):
            result = load(
                [
                    EntryPoint("chat", module(tasks=[task("mine")]), Distribution("theirs")),
                    built_in("chat", module(tasks=[task("chat")])),
                ],
                {},
            )

        assert set(result.tasks) == {"chat"}

    def test_one_module_under_two_names_counts_once(self):
        shared = module(tasks=[task("t")])

        with pytest.warns(PluginWarning, match="its module is the plugin 'a' already"):
            result = load([third_party("a", shared), third_party("b", shared)], {})

        assert set(result.tasks) == {"t"}

    def test_two_commands_of_one_name_are_nobodys_and_cost_no_tasks(self):
        found = [
            third_party(name, module(tasks=[task(name)], commands=[click.Command("count")]))
            for name in ("a", "b")
        ]

        with pytest.warns(PluginWarning, match="the verb 'count' cannot be used"):
            result = load(found, {})

        assert set(result.tasks) == {"a", "b"}
        with pytest.raises(DuplicateName, match="two verbs are named 'count': one from lmkit-a"):
            result.command("count")

    def test_a_verb_of_lmkits_own_cannot_be_replaced(self):
        with pytest.warns(
            PluginWarning, match=r"'train' of lmkit-a 1.0 is not added: lmkit has one"
        ):
            result = load([third_party("a", module(commands=[click.Command("train")]))], {})

        assert result.commands == {}

    def test_one_plugin_that_is_found_twice_is_loaded_once(self):
        found = third_party("a", module(tasks=[task("t")]))

        assert len(load([found, found], {}).plugins) == 1


class TestChoosing:
    @pytest.fixture
    def names(self):
        """Return a function: the tasks that are there under an environment."""
        found = [third_party(name, module(tasks=[task(name)])) for name in ("a", "b", "c")]
        return lambda **environ: set(load(found, environ).tasks)

    def test_all_are_loaded_when_nothing_is_said(self, names):
        assert names() == {"a", "b", "c"}

    def test_lmkit_plugins_names_the_only_ones(self, names):
        assert names(LMKIT_PLUGINS="a, c") == {"a", "c"}

    def test_lmkit_plugins_may_be_empty(self, names):
        assert names(LMKIT_PLUGINS="") == set()

    def test_lmkit_disable_plugins_leaves_some_out(self, names):
        assert names(LMKIT_DISABLE_PLUGINS="a,c") == {"b"}

    def test_both_together_leave_out_of_the_chosen(self, names):
        assert names(LMKIT_PLUGINS="a,b", LMKIT_DISABLE_PLUGINS="a") == {"b"}

    def test_a_name_that_is_not_installed_is_told_with_the_near_one(self):
        with pytest.warns(PluginWarning, match=r"names 'alpcaa', and no such .*close to: alpaca"):
            load([third_party("alpaca", module())], {"LMKIT_PLUGINS": "alpcaa"})

    def test_a_plugin_that_is_left_out_is_not_imported(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = load([third_party("bad", SystemExit())], {"LMKIT_DISABLE_PLUGINS": "bad"})

        assert result.plugins == ()
        assert [(row.name, row.left_out_by) for row in result.left_out] == [
            ("bad", "LMKIT_DISABLE_PLUGINS")
        ]

    def test_the_switch_is_named_where_the_plugins_task_is_looked_for(self):
        result = load([third_party("a", module(tasks=[task("a")]))], {"LMKIT_PLUGINS": ""})

        with pytest.raises(UnknownTask, match=r"'a' \(lmkit-a 1.0\) is left out by LMKIT_PLUGINS"):
            result.task("a")


FILE = """
from lmkit import CausalCollator, Task, TextDecoder, context, hookimpl, target

@hookimpl
def lmkit_tasks():
    return [Task(name="local", formatter=context("{q}") + target("{a}"),
                 collator=CausalCollator(), decoder=TextDecoder())]
"""


class TestFiles:
    @pytest.fixture
    def write(self, tmp_path):
        def write(content, name="lmkitfile.py"):
            (tmp_path / name).write_text(content)
            return {"LMKIT_PLUGIN_FILES": str(tmp_path / name)}

        return write

    def test_a_file_that_is_named_is_a_plugin(self, write, tmp_path):
        result = load([], write(FILE))

        assert set(result.tasks) == {"local"}
        assert result.plugins[0].source == f"the file {tmp_path / 'lmkitfile.py'}"

    def test_several_files_are_parted_as_in_path(self, write):
        first = write(FILE)["LMKIT_PLUGIN_FILES"]
        second = write(FILE.replace("local", "other"), "b.py")["LMKIT_PLUGIN_FILES"]

        result = load([], {"LMKIT_PLUGIN_FILES": f"{first}{os.pathsep}{second}"})

        assert set(result.tasks) == {"local", "other"}

    def test_a_file_in_the_working_directory_is_never_run_by_surprise(self, write, monkeypatch):
        folder = os.path.dirname(write("raise SystemExit('run')")["LMKIT_PLUGIN_FILES"])
        monkeypatch.chdir(folder)

        assert load([], {}).plugins == ()

    def test_a_file_does_not_stand_in_for_a_module_of_its_name(self, write):
        load([], write(FILE, "json.py"))

        assert sys.modules["json"] is json

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("1 +", "SyntaxError"),
            ("raise ValueError('why')", "ValueError: why"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            (FILE.replace("lmkit_tasks", "lmkit_taks"), "no hook 'lmkit_taks'"),
            (FILE.replace("@hookimpl", ""), "not marked with @hookimpl"),
        ],
    )
    def test_a_broken_file_is_an_error_that_names_it(self, write, content, problem):
        """The user asked for this very file, so leaving it out would be a surprise."""
        with pytest.raises(PluginError, match=r"lmkitfile\.py") as caught:
            load([], write(content))

        assert problem in str(caught.value)

    def test_a_file_that_is_not_there_is_an_error(self):
        with pytest.raises(PluginError, match=r"there is no plugin file 'gone\.py'"):
            load([], {"LMKIT_PLUGIN_FILES": "gone.py"})

    def test_a_file_that_is_not_python_is_an_error(self, write):
        with pytest.raises(PluginError, match="is not a Python file"):
            load([], write("", "notes.txt"))


class TestFilesAndSwitches:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "extra.py"
        path.write_text("from lmkit import hookimpl\n")
        return path

    def test_a_file_that_is_named_twice_is_loaded_once(self, file):
        twice = os.pathsep.join([str(file), str(file.parent / "." / file.name)])

        assert [plugin.name for plugin in load([], {"LMKIT_PLUGIN_FILES": twice}).plugins] == [
            "extra"
        ]

    def test_lmkit_disable_plugins_leaves_out_a_file_as_well(self, file):
        """A conflict's message says to set it."""
        environ = {"LMKIT_PLUGIN_FILES": str(file), "LMKIT_DISABLE_PLUGINS": "extra"}

        assert load([], environ).plugins == ()


class TestComponents:
    @pytest.fixture
    def with_shout(self, monkeypatch):
        result = load([third_party("loud", module(components=[Shout]))], {})
        home = sys.modules["lmkit.plugins"]  # `lmkit.plugins` is the function of that name
        monkeypatch.setattr(home, "installed", lambda: result)

    @pytest.mark.usefixtures("with_shout")
    def test_a_task_with_a_plugins_class_makes_the_trip_through_json(self):
        loud = task("t", decoder=Shout(stop=("!",)))

        data = to_json(loud)

        assert data["decoder"]["type"] == "loud:Shout"
        assert from_json(json.loads(json.dumps(data)), Task) == loud

    @pytest.mark.usefixtures("with_shout")
    def test_lmkits_own_classes_keep_their_bare_names(self):
        assert to_json(task("t"))["decoder"]["type"] == "TextDecoder"

    def test_without_the_plugin_the_error_names_it(self):
        data = to_json(task("t"))
        data["decoder"] = {"type": "loud:Shout", "stop": []}

        with pytest.raises(PluginError, match="'loud:Shout' comes from the plugin 'loud'"):
            from_json(data, Task)


class TestTheInstalledOnes:
    def test_the_built_in_tasks_come_through_entry_points_of_lmkit_itself(self):
        rows = {plugin.name: plugin for plugin in plugins() if plugin.builtin}

        assert rows.keys() >= BUILT_IN
        assert all(row.error is None for row in rows.values())
        assert {get_task(name).name for name in BUILT_IN} == BUILT_IN

    def test_the_distributions_of_some_plugins_are_what_a_bundle_writes_down(self):
        [row] = distributions_of(["chat"])

        assert (row["plugin"], row["distribution"]) == ("chat", "lmkit-tasks")
        assert row["version"] == importlib.metadata.version("lmkit-tasks")

    def test_threads_that_ask_at_once_wait_for_one_loading(self, monkeypatch):
        """As in a server; each would import every plugin otherwise, and warn."""
        loads = []

        @hookimpl
        def lmkit_tasks():
            loads.append(1)
            time.sleep(0.05)
            return [task("t")]

        found = [third_party("slow", module(lmkit_tasks=lmkit_tasks))]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        installed.cache_clear()
        try:
            with ThreadPoolExecutor(4) as pool:
                results = list(pool.map(lambda _: installed(), range(4)))
        finally:
            installed.cache_clear()

        assert loads == [1]
        assert all(result is results[0] for result in results)

    def test_the_environment_of_the_process_chooses(self):
        script = "import lmkit; print([task.name for task in lmkit.tasks()])"

        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LMKIT_PLUGINS": "qa"},
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stdout.strip() == "['qa']"
