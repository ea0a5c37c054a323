import importlib
import json
from types import SimpleNamespace

import pytest

import lmkit as lk
from lmkit.chat import CHATML, Turn
from lmkit.errors import PluginError, SerialError
from lmkit.formatting import Template
from lmkit.saving import jsonform
from lmkit.saving.jsonform import dump, from_json, plugin_types, to_json
from lmkit.saving.taskfile import read_task
from lmkit.task import Task
from lmkit.values import value

QA = lk.get_task("qa")


@value
class ShoutDecoder(lk.TextDecoder):
    """A plugin's decoder."""

    mark: str = "!"

    def read(self, text):
        return text.upper() + self.mark


@pytest.fixture
def shout(monkeypatch):
    """Install a plugin that offers `ShoutDecoder`."""
    offered = SimpleNamespace(components={"shout:ShoutDecoder": ShoutDecoder})
    module = importlib.import_module("lmkit.plugins")  # lmkit.plugins is the function
    monkeypatch.setattr(module, "installed", lambda: offered)


def changed(path, content):
    """Return the JSON of `qa` with what stands at a path replaced, or removed by `...`."""
    data = json.loads(dump(to_json(QA)))
    *steps, last = path.split(".")
    place = data
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    if content is ...:
        del place[last]
    else:
        place[last] = content
    return data


class TestATripThroughJson:
    @pytest.mark.parametrize("task", lk.tasks(), ids=lambda task: task.name)
    def test_keeps_every_registered_task(self, task):
        assert from_json(json.loads(dump(to_json(task))), Task) == task

    @pytest.mark.parametrize(
        "task",
        [
            QA.evolve(formatter=lk.Chat.of(system="s", user="{q}", assistant="{a}", learn="last")),
            QA.evolve(formatter=lk.Chat(system="s", template="chatml")),
            QA.evolve(formatter=lk.Chat(turns=[Turn("user", "x"), Turn("assistant", "{y}")])),
            QA.evolve(formatter=lk.context("{{{a}}}").when("b", "c") + lk.target("d")),
            QA.evolve(
                formatter=(lk.context("{a}").when("b") | lk.context("c") + lk.context("d")).when(
                    "e"
                )
                + (lk.target("{f}") | lk.target("g"))
            ),
            QA.evolve(decoder=lk.TextDecoder(stop=("\n", "###"), strip=False)),
            QA.evolve(generation=lk.Generation(temperature=0.5, seed=3, stop="x", top_k=4)),
            QA.evolve(generation=lk.Generation(num_beams=4, early_stopping="never")),
            QA.evolve(generation=lk.Generation(num_beams=4, early_stopping=True)),
            QA.evolve(metrics=[lk.ExactMatch(ignore_case=True)], description="답"),
        ],
        ids=lambda task: type(task.formatter).__name__,
    )
    def test_keeps_every_part(self, task):
        assert from_json(json.loads(dump(to_json(task))), Task) == task

    def test_keeps_a_part_alone(self):
        assert from_json(to_json(QA.collator), lk.CausalCollator) == QA.collator

    def test_puts_the_text_of_a_template_file_in_the_place_of_its_path(self, tmp_path):
        (tmp_path / "my.jinja").write_text(CHATML, "utf-8")
        task = QA.evolve(formatter=lk.Chat(template=str(tmp_path / "my.jinja")))

        assert from_json(to_json(task), Task).formatter == lk.Chat(template=CHATML)

    def test_names_every_part_by_its_type(self):
        data = to_json(QA)

        assert data["type"] == "Task"
        assert data["formatter"]["type"] == "Template"
        assert data["collator"]["type"] == "CausalCollator"
        assert data["decoder"]["type"] == "TextDecoder"


class TestJsonThatIsNoTask:
    @pytest.mark.parametrize(
        ("path", "content", "problem"),
        [
            ("decoder.type", "TextDecodr", r"\$\.decoder: .*TextDecodr.*close to: TextDecoder"),
            ("decoder.type", "Chat", r'\$\.decoder: "type": "Chat" is no decoder|\$\.decoder'),
            ("decoder.type", "os.system", r"\$\.decoder: no class is known"),
            ("decoder", "TextDecoder", r'\$\.decoder: expected a decoder, an object with a "type"'),
            ("decoder", ..., r"\$(\.decoder)?: 'decoder' is missing"),
            ("name", ..., r"\$(\.name)?: 'name' is missing"),
            ("collator.max_lenght", 8, r"\$\.collator: unknown key max_lenght"),
            ("formatter.pieces.0.lern", True, r"\$\.formatter\.pieces\[0\]: unknown key lern"),
            (
                "formatter.pieces.1.template",
                ...,
                r"\$\.formatter\.pieces\[1\].*'template' is missing",
            ),
            ("formatter.pieces.0.template", "{a.b}", r"\$\.formatter\.pieces\[0\].*only a column"),
            (
                "formatter.pieces.0.learn",
                "yes",
                r"pieces\[0\]\.learn: expected true or false, found",
            ),
            ("formatter.pieces", "abc", r"\$\.formatter\.pieces: expected a list, found 'abc'"),
            ("collator.max_length", "8", r"\$\.collator\.max_length: expected a whole number"),
            ("collator.max_length", 8.5, r"\$\.collator\.max_length: expected a whole number"),
            ("collator.max_length", True, r"\$\.collator\.max_length: expected a whole number"),
            ("collator.max_length", 0, r"\$\.collator: max_length is 0"),
            ("decoder.strip", "false", r"\$\.decoder\.strip: expected true or false"),
            ("decoder.stop", "###", r"\$\.decoder\.stop: expected a list, found '###'"),
            ("decoder.stop", ["a", 3], r"\$\.decoder\.stop\[1\]: expected a string, found 3"),
            ("generation.temperature", "hot", r"\$\.generation\.temperature: expected a number"),
            (
                "generation.early_stopping",
                "always",
                r'\$\.generation\.early_stopping: expected true, false or "never", found',
            ),
            ("description", None, r"\$\.description: expected a string, found None"),
            ("name", "a b", r"\$: a task's name is 'a b'"),
            ("metrics", [{"type": "ExactMatc"}], r"\$\.metrics\[0\]: no class .*ExactMatch"),
        ],
    )
    def test_is_refused_with_the_path_of_the_problem(self, path, content, problem):
        with pytest.raises(SerialError, match=problem):
            from_json(changed(path, content), Task)

    def test_has_all_its_problems_told_at_once(self):
        data = changed("collator.max_length", "8") | {"description": 3}

        with pytest.raises(SerialError) as caught:
            from_json(data, Task)

        assert "$.collator.max_length" in str(caught.value)
        assert "$.description" in str(caught.value)

    @pytest.mark.parametrize("data", [[], "qa", None, 3, {}, {"type": "Chat"}])
    def test_is_refused_whatever_it_is(self, data):
        with pytest.raises(SerialError, match=r'expected (an object with )?"type": "Task"'):
            from_json(data, Task)

    def test_of_a_whole_number_makes_a_float(self):
        task = from_json(changed("generation.temperature", 1), Task)

        assert task.generation.temperature == 1.0


class TestAChoiceOfJson:
    formatter = lk.context("{q}\n") + (lk.context("{a}") | lk.context("b")) + lk.target("{c}")

    def test_is_a_list_of_alternatives_beside_the_pieces(self):
        piece = {"learn": False, "when": []}

        assert to_json(self.formatter)["pieces"][:2] == [
            {"template": "{q}\n", **piece},
            {
                "alternatives": [[{"template": "{a}", **piece}], [{"template": "b", **piece}]],
                "when": [],
            },
        ]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"alternatives": []}, r"pieces\[1\]: a choice has fewer than two alternatives"),
            ({"alternatives": [["x"], []]}, r"pieces\[1\]\.alternatives\[0\]"),
            ({"lern": True}, r"pieces\[1\]: unknown key lern"),
        ],
    )
    def test_that_is_no_choice_is_refused_with_the_path(self, change, problem):
        data = to_json(self.formatter)
        data["pieces"][1] |= change

        with pytest.raises(SerialError, match=problem):
            from_json(data, Template)

    def test_that_is_no_piece_either_is_refused_with_the_path(self):
        with pytest.raises(SerialError, match=r"pieces\[0\]: expected an object, a piece"):
            from_json({"type": "Template", "pieces": ["x"]}, Template)


class TestAPluginsClass:
    def test_is_named_by_its_plugin(self, shout):
        data = to_json(QA.evolve(decoder=ShoutDecoder(mark="?")))

        assert data["decoder"]["type"] == "shout:ShoutDecoder"
        assert plugin_types(data) == ["shout:ShoutDecoder"]

    def test_comes_back_from_json(self, shout):
        task = QA.evolve(decoder=ShoutDecoder(mark="?"))

        assert from_json(json.loads(dump(to_json(task))), Task) == task

    def test_whose_plugin_is_missing_is_named_with_it(self):
        data = changed("decoder.type", "shout:ShoutDecoder")

        with pytest.raises(
            PluginError, match="comes from the plugin 'shout', which is not installed"
        ):
            from_json(data, Task)

    def test_that_no_plugin_offers_cannot_become_json(self):
        """It is a subclass of our own, and must not be written as its parent."""
        with pytest.raises(
            SerialError, match=r"ShoutDecoder has no name in JSON.*lmkit_components"
        ):
            to_json(QA.evolve(decoder=ShoutDecoder()))

    def test_does_not_cost_a_task_without_one_the_loading_of_plugins(self, monkeypatch):
        monkeypatch.setattr(jsonform, "_plugin_components", None)

        assert from_json(to_json(QA), Task) == QA


class TestReadingAFile:
    def test_gives_the_task(self, tmp_path):
        (tmp_path / "task.json").write_text(dump(to_json(QA)), "utf-8")

        assert read_task(tmp_path / "task.json") == QA

    def test_that_is_missing_names_it(self, tmp_path):
        with pytest.raises(SerialError, match=r"task\.json' cannot be read as JSON"):
            read_task(tmp_path / "task.json")

    def test_that_is_no_task_names_it_and_the_path(self, tmp_path):
        (tmp_path / "task.json").write_text(dump(changed("name", 3)), "utf-8")

        with pytest.raises(SerialError, match=r"task\.json' does not describe a task: \$\.name"):
            read_task(tmp_path / "task.json")


def test_hangul_is_written_as_it_is():
    assert "질문" in dump(to_json(QA))


def test_parts_nested_without_end_are_refused(tmp_path):
    inner = to_json(QA.formatter)
    for _ in range(3000):
        inner = {"type": "Renamed", "formatter": inner, "renames": []}

    with pytest.raises(SerialError, match="nested too deeply"):
        from_json({**to_json(QA), "formatter": inner}, Task)

    (tmp_path / "task.json").write_text("[" * 200_000, "utf-8")
    with pytest.raises(SerialError, match="cannot be read as JSON"):
        read_task(tmp_path / "task.json")
