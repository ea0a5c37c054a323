"""What a task needs of plugins, on machines that have it, lack it, or have something else."""

import json
import sys

import attrs
import pytest
from plugins.test_loading import Distribution, EntryPoint, module

import lmkit as lk
from lmkit.errors import PluginError, SerialError
from lmkit.evaluating import check_ready
from lmkit.family import Family
from lmkit.plugins import PluginWarning, load
from lmkit.records import Row
from lmkit.saving.absent import Absent, Needed
from lmkit.saving.jsonform import dump, to_json
from lmkit.saving.needs import needed_by, needed_to_answer, requirements
from lmkit.saving.taskfile import heading, read_task

QA = lk.get_task("qa")


@attrs.frozen
class Shout:
    marks: int = 1
    stop: tuple[str, ...] = ()
    families = frozenset({Family.CAUSAL})

    def read(self, text):
        return text.upper() + "!" * self.marks


@attrs.frozen
class Noise:
    def score(self, answers, references):
        return {"noise": 1.0}


@attrs.frozen
class Louder:
    families = frozenset(Family)

    def prepare(self, tokenizer):
        return self


LOUD = QA.evolve(decoder=Shout())
TRAINED = QA.evolve(loss=Louder(), metrics=[Noise()])


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this a machine on which just one plugin is installed, or none."""

    def has(
        *components, name="loud", distribution="lmkit-loud", version="1.0", found=None, **environ
    ):
        dist = None if distribution is None else Distribution(distribution, version)
        point = EntryPoint(name, found or module(components=components), dist)
        result = load([point] if components or found else [], environ)
        monkeypatch.setattr(sys.modules["lmkit.plugins"], "installed", lambda: result)

    return has


@pytest.fixture
def written(machine, tmp_path):
    """Return a function that writes a task down where all of the plugin is installed."""

    def write(task, **installed):
        machine(Shout, Noise, Louder, **installed)
        path = tmp_path / "task.json"
        path.write_text(dump({**heading(task), **to_json(task)}), "utf-8")
        return path

    return write


def problem(path):
    with pytest.raises(PluginError) as caught:
        read_task(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("task.json' ")[2]


class TestWhatAnsweringNeeds:
    def test_is_installed_by_the_line_that_is_said(self, written, machine):
        path = written(LOUD)
        machine()

        assert problem(path) == (
            "needs loud:Shout, and no installed plugin offers it; pip install 'lmkit-loud==1.0'"
        )

    def test_may_be_a_class_that_another_version_has_not(self, written, machine):
        path = written(LOUD)
        machine(Noise, version="2.0")

        assert problem(path) == (
            "needs loud:Shout, and lmkit-loud 2.0, which is installed, does not offer it; "
            "pip install 'lmkit-loud==1.0'"
        )

    def test_may_be_gone_from_the_version_itself_which_pip_would_leave_as_it_is(
        self, written, machine
    ):
        path = written(LOUD)
        machine(Noise)

        assert problem(path).endswith("pip install --force-reinstall 'lmkit-loud==1.0'")

    def test_may_be_what_another_distribution_calls_by_the_same_name(self, written, machine):
        path = written(LOUD)
        machine(Noise, distribution="noisy")

        assert "and noisy 1.0, which is installed, does not offer it; pip" in problem(path)

    @pytest.mark.filterwarnings("ignore::lmkit.plugins.PluginWarning")
    def test_may_be_broken_and_then_installing_it_again_helps_nobody(self, written, machine):
        path = written(LOUD)
        machine(found=ImportError("no module named 'parrot'"))

        assert problem(path) == (
            "needs loud:Shout, and the plugin 'loud' (lmkit-loud 1.0) is broken: ImportError: "
            "no module named 'parrot'; run 'lmkit plugins' to see what is"
        )

    def test_may_be_left_out_by_a_switch(self, written, machine):
        path = written(LOUD)
        machine(Shout, LMKIT_DISABLE_PLUGINS="loud")

        assert problem(path).endswith(
            "is left out by LMKIT_DISABLE_PLUGINS; unset LMKIT_DISABLE_PLUGINS, or change it"
        )

    def test_may_have_come_from_a_file_which_is_to_be_named_again(self, written, machine):
        path = written(LOUD, distribution=None)
        machine()

        assert problem(path) == (
            "needs loud:Shout, and it came from the plugin file loud.py, which no package has; "
            "name it with --plugin loud.py, or LMKIT_PLUGIN_FILES=loud.py"
        )

    def test_may_be_gone_from_that_file(self, written, machine):
        path = written(LOUD, distribution=None)
        machine(Noise, distribution=None)

        assert problem(path).endswith(
            ", which is loaded, does not offer it; run 'lmkit plugins' to see what is"
        )

    def test_may_be_of_several_distributions_that_one_line_installs(self, written, machine):
        path = written(LOUD)
        data = json.loads(path.read_text("utf-8"))
        data["collator"] = {"type": "neat:Collator"}
        data["plugins"].append({"plugin": "neat", "distribution": "neat", "version": None})
        path.write_text(dump(data), "utf-8")
        machine()

        assert problem(path).endswith("; pip install 'lmkit-loud==1.0' 'neat'")

    def test_is_told_from_what_only_training_needs(self, machine):
        machine(Shout, Noise, Louder)

        assert needed_to_answer(LOUD, needed_by(LOUD)) == needed_by(LOUD)
        assert needed_to_answer(TRAINED, needed_by(TRAINED)) == ()

    def test_is_handed_to_pip_unless_it_is_a_file(self):
        needs = [
            Needed(plugin="loud", distribution="lmkit-loud", version="1.0"),
            Needed(plugin="mine", distribution=None, version=None),
        ]

        assert requirements(needs) == ["'lmkit-loud==1.0'"]


class TestAnotherVersion:
    def test_is_warned_of_with_both_versions(self, written, machine):
        path = written(LOUD)
        machine(Shout, version="1.1")

        with pytest.warns(PluginWarning) as warned:
            assert read_task(path) == LOUD
        assert [str(one.message).partition("task.json' ")[2] for one in warned] == [
            "was made with lmkit-loud 1.0, and lmkit-loud 1.1 is installed, so its answers may "
            "differ; pip install 'lmkit-loud==1.0' for what it was"
        ]

    def test_of_what_only_training_asks_cannot_change_an_answer(self, written, machine):
        path = written(TRAINED)
        machine(Noise, Louder, version="1.1")

        with pytest.warns(PluginWarning, match="so its training and figures may differ"):
            read_task(path)

    def test_a_file_in_the_place_of_a_distribution_is_another_one(self, written, machine):
        path = written(LOUD)
        machine(Shout, distribution=None)

        with pytest.warns(
            PluginWarning, match="with lmkit-loud 1.0, and the file None is installed"
        ):
            read_task(path)

    def test_whose_class_has_other_fields_is_what_an_error_ends_with(self, written, machine):
        path = written(LOUD)

        @attrs.frozen
        class Shout:
            stop: tuple[str, ...] = ()
            families = frozenset({Family.CAUSAL})

            def read(self, text):
                return text

        machine(Shout, version="1.1")

        with pytest.raises(SerialError) as caught:
            read_task(path)
        assert str(caught.value).partition("a task: ")[2] == (
            "$.decoder: unknown key marks; it was made with lmkit-loud 1.0, and lmkit-loud 1.1 is "
            "installed; pip install 'lmkit-loud==1.0' for what it was"
        )

    def test_of_lmkit_itself_is_what_schemas_are_for(self, written, machine):
        path = written(LOUD, distribution="lmkit-tasks", version="0.1")
        machine(Shout, distribution="lmkit-tasks", version="0.2")

        assert read_task(path) == LOUD


class TestWhatAnsweringDoesNotAsk:
    def test_is_not_demanded(self, written, machine):
        path = written(TRAINED)
        machine()

        task = read_task(path)

        assert task.decoder == QA.decoder
        assert isinstance(task.loss, Absent)

    def test_says_what_to_install_once_it_is_asked(self, written, machine):
        path = written(TRAINED)
        machine()
        task = read_task(path)

        with pytest.raises(PluginError) as training:
            task.loss.prepare(None)
        with pytest.raises(PluginError) as measuring:
            check_ready(task.metrics)
        for error, what in ((training, "loss loud:Louder"), (measuring, "metric loud:Noise")):
            assert str(error.value).endswith(
                f"task.json' has the {what}, and no installed plugin offers it; "
                "pip install 'lmkit-loud==1.0'"
            )

    def test_is_written_as_it_was_with_what_it_needs(self, written, machine):
        """Such as by an export on a machine that only answers."""
        path = written(TRAINED)
        before = json.loads(path.read_text("utf-8"))
        machine()

        task = read_task(path)

        assert {**heading(task), **to_json(task)} == before
        assert needed_by(task) == (Needed(plugin="loud", distribution="lmkit-loud", version="1.0"),)

    def test_is_the_same_each_time(self, written, machine):
        path = written(TRAINED)
        machine()

        assert read_task(path) == read_task(path)
        assert len({read_task(path), read_task(path)}) == 1

    def test_is_found_in_a_mixture_too(self, written, machine):
        path = written(lk.mix({TRAINED: 1, TRAINED.evolve(name="other"): 2}))
        machine()

        mixture = read_task(path)

        with pytest.raises(PluginError, match=r"pip install 'lmkit-loud==1\.0'"):
            mixture.tasks[1].loss.prepare(None)

    def test_a_transforms_function_names_its_plugin_by_what_is_missing(self, written, machine):
        path = written(LOUD)
        data = json.loads(path.read_text("utf-8"))
        data["decoder"] = to_json(QA)["decoder"]
        data["transforms"] = [{"type": "Map", "function": "lmkit_loud.records:tidy"}]
        path.write_text(dump(data), "utf-8")
        machine()

        [transform] = read_task(path).transforms

        with pytest.raises(PluginError) as caught:
            transform.apply(Row({}, ""))
        assert str(caught.value).endswith(
            "has the transform lmkit_loud.records:tidy, and no installed plugin offers it; "
            "pip install 'lmkit-loud==1.0'"
        )

    def test_of_lmkits_own_is_refused_at_once_where_it_is_misspelt(self, written):
        path = written(QA)
        data = json.loads(path.read_text("utf-8"))
        data["metrics"] = [{"type": "ExcatMatch"}]
        path.write_text(dump(data), "utf-8")

        with pytest.raises(SerialError, match=r"ExcatMatch.*close to: ExactMatch"):
            read_task(path)
