import sys

import attrs
import pytest
from plugins.test_loading import module, third_party

import lmkit as lk
from lmkit.errors import PluginError, SerialError
from lmkit.family import Family
from lmkit.plugins import load
from lmkit.saving.jsonform import dump, to_json
from lmkit.saving.taskfile import SCHEMA, heading, read_task

QA = lk.get_task("qa")


@attrs.frozen
class Shout:
    stop: tuple[str, ...] = ()
    families = frozenset({Family.CAUSAL})

    def read(self, text):
        return text.upper()


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a `task.json` and returns its place."""

    def write(data):
        path = tmp_path / "task.json"
        path.write_text(dump(data), "utf-8")
        return path

    return write


def written(what, **changes):
    return {**heading(what), **to_json(what), **changes}


class TestTheHeading:
    def test_says_which_schema_and_which_lmkit(self):
        assert heading(QA) == {"schema": 2, "lmkit": lk.__version__, "plugins": []}

    def test_stands_before_the_task_and_is_no_part_of_it(self, file):
        assert read_task(file(written(QA))) == QA

    def test_a_mixture_has_one_too(self, file):
        mixture = lk.mix({QA: 2, "alpaca": 1}, seed=0)

        assert read_task(file(written(mixture))) == mixture


def test_a_bundles_manifest_is_told_from_a_task_of_the_future(file):
    path = file({"schema": 3, "families": ["causal"], "task": to_json(QA), "graph": {}})

    with pytest.raises(SerialError, match="is a bundle's, not a task: lmkit generate"):
        read_task(path)


class TestOtherVersions:
    def test_a_task_alone_is_schema_1(self, file):
        """What a run of an earlier lmkit holds, and what somebody writes by hand."""
        assert read_task(file(to_json(QA))) == QA

    @pytest.mark.parametrize("schema", [SCHEMA.newest + 1, 99])
    def test_one_of_the_future_says_who_wrote_it_and_what_to_do(self, file, schema):
        path = file(written(QA, schema=schema, lmkit="9.9", surprise=1))

        with pytest.raises(
            SerialError, match=rf"task\.json' has schema {schema}, written by lmkit 9"
        ) as caught:
            read_task(path)
        assert "this lmkit reads up to schema 2: pip install --upgrade lmkit-tasks" in str(
            caught.value
        )

    def test_one_before_the_first_is_not_read(self, file):
        with pytest.raises(SerialError, match="has schema 0, which is not read"):
            read_task(file(written(QA, schema=0)))

    @pytest.mark.parametrize("schema", ["2", True, None, 1.0])
    def test_a_schema_is_a_whole_number(self, file, schema):
        with pytest.raises(SerialError, match="has a schema that is no whole number"):
            read_task(file(written(QA, schema=schema)))

    def test_a_word_of_a_later_version_is_refused_with_what_to_do(self, file):
        """It may have said more without another schema."""
        collator = {**to_json(QA)["collator"], "surprise": 1}

        with pytest.raises(
            SerialError, match=r"\$\.collator: unknown key surprise.*pip install --up"
        ):
            read_task(file(written(QA, lmkit="9.9", collator=collator)))

    def test_the_same_word_from_this_version_is_a_mistake(self, file):
        collator = {**to_json(QA)["collator"], "surprise": 1}

        with pytest.raises(SerialError, match=r"unknown key surprise$"):
            read_task(file(written(QA, collator=collator)))


class TestWhatIsNeeded:
    @pytest.fixture
    def loud(self, monkeypatch):
        """Return a task with a plugin's decoder, and a function that uninstalls the plugin."""
        result = load([third_party("loud", module(components=[Shout]))], {})
        home = sys.modules["lmkit.plugins"]  # `lmkit.plugins` is the function of that name
        monkeypatch.setattr(home, "installed", lambda: result)
        nothing = load([], {})
        return QA.evolve(decoder=Shout()), lambda: monkeypatch.setattr(
            home, "installed", lambda: nothing
        )

    def test_is_written_down_with_distribution_and_version(self, loud):
        task, _ = loud

        assert heading(task)["plugins"] == [
            {"plugin": "loud", "distribution": "lmkit-loud", "version": "1.0"}
        ]

    def test_is_said_where_it_is_missing(self, loud, file):
        task, uninstall = loud
        path = file(written(task))
        assert read_task(path) == task

        uninstall()

        with pytest.raises(
            PluginError, match=r"task\.json' needs loud:Shout.* pip install 'lmkit-loud==1"
        ):
            read_task(path)

    def test_is_the_plugin_at_least_where_nothing_was_written_down(self, loud, file):
        task, uninstall = loud
        path = file(to_json(task))
        uninstall()

        with pytest.raises(
            PluginError, match="install the plugin 'loud', or name its file with --pl"
        ):
            read_task(path)

    @pytest.mark.parametrize("plugins", [None, 3, ["loud"], [{"plugin": "loud"}]])
    def test_may_be_damaged_and_the_plugin_is_named_all_the_same(self, loud, file, plugins):
        task, uninstall = loud
        path = file(written(task, plugins=plugins))
        uninstall()

        with pytest.raises(PluginError, match="needs loud:Shout"):
            read_task(path)
