import functools
import importlib
import json
import sys
import types

import pytest

import lmkit as lk
from lmkit.errors import PluginError, RecordError, RecordErrors, SerialError, TaskError
from lmkit.plugins import load
from lmkit.records import Row
from lmkit.saving.jsonform import dump, from_json, to_json
from lmkit.task import Task
from lmkit.testing import QUICK, check_task, toy_tokenizer
from lmkit.transforms import Lost, Map, Where, recorded, transformed

QA = lk.get_task("qa")
ROWS = [Row({"prompt": f"{n}?", "completion": str(n)}, f"a.jsonl:{n + 1}") for n in range(4)]


def tidy(record):
    """Change the record that it was given, as people do."""
    record["prompt"] = record["prompt"].replace("?", " 는?")
    return record


def is_even(record):
    return int(record["completion"]) % 2 == 0


def texts(task, rows=ROWS):
    tokenizer = toy_tokenizer()
    return [tokenizer.decode(row.input_ids.tolist()) for row in lk.encode(task, rows, tokenizer)]


class TestMapAndWhere:
    def test_prepare_the_records_that_are_encoded(self):
        task = QA.where(is_even).map(tidy)

        assert texts(task) == ["질문: 0 는?\n답변: 0", "질문: 2 는?\n답변: 2"]

    def test_run_in_the_order_in_which_they_were_added(self):
        def count_up(record):
            return {**record, "completion": str(int(record["completion"]) + 1)}

        assert len(texts(QA.map(count_up).where(is_even))) == 2
        assert texts(QA.map(count_up).where(is_even))[0].endswith("답변: 2")
        assert texts(QA.where(is_even).map(count_up))[0].endswith("답변: 1")

    def test_keep_each_rows_place(self):
        rows = transformed((Where(is_even), Map(tidy)), ROWS, name="a.jsonl")

        assert [row.where for row in rows] == ["a.jsonl:1", "a.jsonl:3"]

    def test_leave_the_users_own_records_as_they_are(self):
        records = [dict(row) for row in ROWS]
        texts(QA.map(tidy), records)

        assert records == ROWS

    def test_are_not_called_for_a_prompt(self):
        def fail(record):
            raise AssertionError

        ids = lk.prompt_ids(QA.map(fail), {"prompt": "x"}, toy_tokenizer())

        assert ids.tolist() == lk.prompt_ids(QA, {"prompt": "x"}, toy_tokenizer()).tolist()

    def test_go_with_renamed_columns(self):
        task = QA.rename(question="prompt").where(lambda record: record["question"] != "b")

        rows = [{"question": text, "completion": "x"} for text in "abc"]
        assert len(texts(task, rows)) == 2

    def test_are_applied_before_a_task_is_checked(self):
        check_task(QA, transformed((Map(tidy),), ROWS, name="rows"), promises=QUICK)

    def test_are_told_in_print(self):
        assert str(Map(tidy)) == "map(tidy)"
        assert str(Where(lambda record: True)).startswith("where(TestMapAndWhere.")


class TestAFunctionThatFails:
    def test_is_named_with_the_row_and_the_cause(self):
        with pytest.raises(RecordError) as caught:
            texts(QA.map(tidy), [ROWS[0], Row({"completion": "x"}, "a.jsonl:9")])

        assert str(caught.value) == "a.jsonl:9: map(tidy) fails: KeyError: 'prompt'"
        assert isinstance(caught.value.__cause__, KeyError)

    def test_on_several_rows_is_told_once_for_each(self):
        with pytest.raises(RecordErrors, match=r"2 bad rows\n  .*where\(is_even\) fails"):
            texts(QA.where(is_even), [{"a": 1}, ROWS[0], {"b": 2}])

    @pytest.mark.parametrize(("found", "said"), [(None, "None"), ("x", "a str"), ([1], "a list")])
    def test_by_returning_no_record_is_told_what_it_returned(self, found, said):
        with pytest.raises(RecordError, match=f"a.jsonl:1: .* returned {said}, expected a record"):
            texts(QA.map(lambda record: found), ROWS[:1])

    def test_by_leaving_nothing_is_told(self):
        with pytest.raises(RecordError, match=r"records: where\(.*\) leaves out every record"):
            texts(QA.where(lambda record: False))

    @pytest.mark.parametrize("function", [None, "tidy", 3])
    def test_to_be_one_is_refused_at_once(self, function):
        with pytest.raises(TaskError, match="expected a function of a record"):
            QA.map(function)

    def test_a_record_that_is_none_is_told(self):
        with pytest.raises(RecordError, match="record 0: a record is a mapping, not a str"):
            texts(QA.map(tidy), ["x"])

    def test_what_is_no_transform_is_refused(self):
        with pytest.raises(TaskError, match="in transforms is no transform"):
            QA.evolve(transforms=[tidy])


@pytest.fixture
def plugin(monkeypatch):
    """Install a plugin whose package has a module with functions, and another package beside it."""
    package, inner, other = (
        types.ModuleType(name) for name in ("lmkit_x", "lmkit_x.cleaning", "lmkit_xtra")
    )
    for module in (package, inner, other):
        source = "def tidy(record):\n    return {**record, 'prompt': 'x'}\n"
        exec(source, vars(module))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package.__package__ = "lmkit_x"
    inner.borrowed = json.dumps
    point = types.SimpleNamespace(name="x", value="lmkit_x", dist=None, load=lambda: package)
    found = load([point], {})
    monkeypatch.setattr(importlib.import_module("lmkit.plugins"), "installed", lambda: found)
    return types.SimpleNamespace(package=package, inner=inner, other=other)


class TestInJson:
    def test_a_plugins_function_is_named_by_its_import_path(self, plugin):
        data = to_json(QA.map(plugin.inner.tidy).where(plugin.package.tidy))

        assert data["transforms"] == [
            {"type": "Map", "function": "lmkit_x.cleaning:tidy"},
            {"type": "Where", "function": "lmkit_x:tidy"},
        ]

    def test_it_comes_back_as_the_function_itself(self, plugin):
        task = QA.map(plugin.inner.tidy)

        assert from_json(json.loads(dump(to_json(task))), Task) == task

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (lambda record: record, "a lambda has no name"),
            (functools.partial(tidy), "it is a partial, not a function with a name"),
            (Lost("a", "b").apply, "it is a method, not a function"),
            (str, "it is a type, not a function"),
            (tidy, "'tidy' is defined in 'test_transforms', which is of no installed plugin"),
        ],
    )
    def test_a_function_without_a_name_is_refused_with_the_reason(self, function, reason):
        with pytest.raises(SerialError, match=reason):
            to_json(QA.map(function))

    def test_a_local_function_is_refused(self):
        def local(record):
            return record

        with pytest.raises(SerialError, match="is not defined at the level of its module"):
            to_json(QA.map(local))

    def test_a_scripts_function_is_refused(self, monkeypatch):
        monkeypatch.setattr(tidy, "__module__", "__main__")

        with pytest.raises(SerialError, match="'tidy' is defined in a script"):
            to_json(QA.map(tidy))

    def test_a_function_that_its_module_no_longer_has_is_refused(self, plugin):
        function = plugin.inner.tidy
        plugin.inner.tidy = None

        with pytest.raises(SerialError, match=r"'lmkit_x\.cleaning' has another 'tidy'"):
            to_json(QA.map(function))

    @pytest.mark.parametrize(
        "path",
        ["os:system", "lmkit_xtra:tidy", "lmkit.files:write_atomically", "json:dumps", "lmkit_:x"],
    )
    def test_nothing_outside_of_plugins_is_read_back(self, plugin, path):
        data = {**to_json(QA), "transforms": [{"type": "Map", "function": path}]}

        [transform] = from_json(data, Task).transforms
        with pytest.raises(PluginError, match=f"the function '{path}' is of no installed plugin"):
            transform.apply(Row({}, ""))

    def test_nothing_outside_of_plugins_is_even_imported(self, plugin, tmp_path, monkeypatch):
        (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
        monkeypatch.syspath_prepend(tmp_path)
        data = {**to_json(QA), "transforms": [{"type": "Map", "function": "stranger:run"}]}

        [transform] = from_json(data, Task).transforms
        with pytest.raises(PluginError):
            transform.apply(Row({}, ""))
        assert "stranger" not in sys.modules

    @pytest.mark.parametrize("path", ["lmkit_x.cleaning:borrowed", "lmkit_x:gone"])
    def test_only_what_the_module_itself_defines_is_read_back(self, plugin, path):
        data = {**to_json(QA), "transforms": [{"type": "Map", "function": path}]}

        with pytest.raises(SerialError, match="defines no function"):
            from_json(data, Task)

    @pytest.mark.parametrize("path", ["tidy", "a:b:c", "lmkit_x:", ":tidy", "lmkit_x:a.b", 3, None])
    def test_what_is_no_path_is_refused(self, plugin, path):
        data = {**to_json(QA), "transforms": [{"type": "Map", "function": path}]}

        with pytest.raises(SerialError, match=r"transforms\[0\].*expected a function as"):
            from_json(data, Task)

    def test_a_plugins_module_that_is_missing_is_told(self, plugin):
        data = {**to_json(QA), "transforms": [{"type": "Map", "function": "lmkit_x.no:tidy"}]}

        [transform] = from_json(data, Task).transforms
        with pytest.raises(PluginError, match=r"'lmkit_x\.no' cannot be imported"):
            transform.apply(Row({}, ""))

    def test_what_was_lost_comes_back_lost(self, plugin):
        task = QA.evolve(transforms=recorded((Map(tidy), Where(plugin.inner.tidy))))
        again = from_json(json.loads(dump(to_json(task))), Task)

        assert again == task
        assert isinstance(again.transforms[0], Lost)
        assert again.transforms[1] == Where(plugin.inner.tidy)
        with pytest.raises(
            TaskError, match=r"with map\(tidy\), which was not written down: .*task="
        ):
            texts(again)


ROWS_TO_LEARN = [{"prompt": f"{n}?", "completion": "가나다" + str(n)} for n in range(8)]


@pytest.fixture(scope="module")
def task():
    return QA.where(lambda record: record["completion"][-1] in "0246")


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    return lk.train(
        task,
        model=lk.scratch("gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=64),
        tokenizer=lk.train_tokenizer(kind="char", data=ROWS_TO_LEARN, task="qa"),
        data=ROWS_TO_LEARN,
        output=tmp_path_factory.mktemp("mapped") / "run",
        max_steps=1,
        save_strategy="no",
        use_cpu=True,
    )


@pytest.mark.slow
class TestARun:
    def test_learns_from_the_records_that_are_left(self, run):
        about = json.loads((run.path / "run.json").read_text("utf-8"))

        assert about["data"]["rows"] == 4

    def test_with_a_lambda_answers_as_any_other(self, run):
        from lmkit.answering import open_answerer

        opened = open_answerer(run.path)

        assert opened({"prompt": "1?"}, max_new_tokens=2).usage.completion_tokens <= 2
        assert isinstance(opened.task.transforms[0], Lost)

    def test_with_a_lambda_is_measured_once_the_task_is_given(self, run, task):
        with pytest.raises(
            TaskError, match=r"a lambda has no name; give the task itself with task="
        ):
            lk.evaluate(run, data=ROWS_TO_LEARN)

        assert lk.evaluate(run, data=ROWS_TO_LEARN, task=task)["records"] == 4

    def test_with_a_lambda_is_not_exported_and_says_why(self, run, tmp_path):
        with pytest.raises(
            SerialError, match=r"its transform where\(.*\) cannot become JSON: a lambda.*--task"
        ):
            lk.export(run, output=tmp_path / "bundle")

        assert not (tmp_path / "bundle").exists()
