"""Look tasks up: a registered name, `file.py:attribute`, or a `task.json`."""

from __future__ import annotations

from pathlib import Path

from lmkit.errors import PluginError, TaskError, UnknownTask
from lmkit.jsonform import read_task
from lmkit.plugins import Plugin, installed, module_from_file
from lmkit.task import Task


def tasks() -> tuple[Task, ...]:
    """Return every registered task, by name.

    Raises:
        DuplicateName: two plugins offer tasks of one name.
    """
    return tuple(installed().tasks.values())


def plugins() -> tuple[Plugin, ...]:
    """Return every plugin that was found, the broken ones with their error."""
    return installed().plugins


def get_task(task: str | Path | Task) -> Task:
    """Return a task.

    Args:
        task: a registered name, `path/to/file.py:attribute`, the path of a `task.json` or of a
            folder that holds one, or a task (returned as it is).
    Raises:
        UnknownTask: no plugin has a task of that name; near names are listed.
        TaskError: the file's attribute is no task.
    """
    if isinstance(task, Task):
        return task
    text = str(task)
    file, colon, attribute = text.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_python(Path(file), attribute)
    path = Path(text)
    if text.endswith(".json"):
        return read_task(path)
    known = installed().tasks
    if text in known:
        return known[text]
    if (path / "task.json").is_file():
        return read_task(path / "task.json")
    raise UnknownTask(text, known)


def _from_python(file: Path, attribute: str) -> Task:
    module = module_from_file(file)
    if not hasattr(module, attribute):
        names = [name for name, found in vars(module).items() if isinstance(found, Task)]
        raise PluginError(
            f"'{file}' has no '{attribute}'; its tasks are: {', '.join(names) or 'none'}"
        )
    found = getattr(module, attribute)
    if not isinstance(found, Task):
        raise TaskError(f"'{file}:{attribute}' is a {type(found).__name__}, not a Task")
    return found
