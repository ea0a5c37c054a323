import pytest

from lmkit.errors import PluginError, SerialError, TaskError, UnknownTask
from lmkit.registry import get_task, plugins, tasks
from lmkit.saving.jsonform import dump, to_json

FILE = """
from lmkit import CausalCollator, Task, TextDecoder, context, target

riddle = Task(name="riddle", formatter=context("{q}") + target("{a}"),
              collator=CausalCollator(), decoder=TextDecoder())
number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_a_registered_name_finds_its_task():
    assert get_task("chat").name == "chat"


def test_a_task_is_itself():
    chat = get_task("chat")

    assert get_task(chat) is chat


def test_all_tasks_are_listed_by_name():
    names = [task.name for task in tasks()]

    assert names == sorted(names)
    assert {"chat", "alpaca", "qa"} <= set(names)


def test_all_plugins_are_listed():
    assert {"chat", "alpaca", "qa"} <= {plugin.name for plugin in plugins()}


def test_an_attribute_of_a_python_file_finds_its_task(file):
    assert get_task(f"{file}:riddle").name == "riddle"


def test_looking_a_file_up_twice_gives_equal_tasks(file):
    assert get_task(f"{file}:riddle") == get_task(f"{file}:riddle")


def test_a_json_file_and_a_folder_with_one_find_their_task(tmp_path):
    (tmp_path / "task.json").write_text(dump(to_json(get_task("qa"))))

    assert get_task(tmp_path / "task.json") == get_task("qa")
    assert get_task(tmp_path) == get_task("qa")


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UnknownTask, match="close to: alpaca") as caught:
        get_task("alpcaa")

    assert caught.value.name == "alpcaa"
    assert "chat" in caught.value.known


def test_a_name_like_no_other_lists_what_is_known():
    with pytest.raises(UnknownTask, match=r"(?s)known: alpaca, .*run 'lmkit plugins'"):
        get_task("xyzzy")


def test_a_missing_attribute_lists_the_files_tasks(file):
    with pytest.raises(PluginError, match="has no 'ridle'; its tasks are: riddle"):
        get_task(f"{file}:ridle")


def test_an_attribute_that_is_no_task_says_what_it_is(file):
    with pytest.raises(TaskError, match="number' is a int, not a Task"):
        get_task(f"{file}:number")


def test_a_python_file_that_is_not_there_is_named():
    with pytest.raises(PluginError, match=r"there is no plugin file 'gone\.py'"):
        get_task("gone.py:riddle")


def test_a_python_file_that_fails_says_how(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module")

    with pytest.raises(PluginError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        get_task(f"{tmp_path / 'bad.py'}:riddle")


def test_a_json_file_that_is_not_there_is_named():
    with pytest.raises(SerialError, match=r"'gone\.json' cannot be read"):
        get_task("gone.json")


def test_a_json_file_that_is_no_task_says_what_is_missing(tmp_path):
    (tmp_path / "task.json").write_text('{"type": "Task", "name": "x"}')

    with pytest.raises(SerialError, match=r"does not describe a task: .*formatter"):
        get_task(tmp_path / "task.json")
