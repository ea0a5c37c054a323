"""Look tasks up: a registered name, `file.py:attribute`, or a `task.json`."""

from __future__ import annotations

from pathlib import Path

from lmkit.errors import PluginError, TaskError, UnknownTask
from lmkit.mixing import Mixture
from lmkit.plugins import Plugin, installed, module_from_file
from lmkit.saving.taskfile import read_task
from lmkit.task import Task


def tasks() -> tuple[Task, ...]:
    """Return every registered task, by name; a name that two plugins claim is nobody's."""
    return tuple(installed().tasks.values())


def plugins() -> tuple[Plugin, ...]:
    """Return every plugin that was found, the broken ones with their error."""
    return installed().plugins


def get_task(task: str | Path | Task | Mixture) -> Task | Mixture:
    """Return a task, or a mixture of tasks.

    Args:
        task: a registered name, `path/to/file.py:attribute`, the path of a `task.json` or of a
            folder that holds one, or a task (returned as it is).
    Raises:
        UnknownTask: no plugin has a task of that name; near names are listed.
        DuplicateName: two plugins have a task of that name; the text names both distributions.
        TaskError: the file's attribute is no task.
    """
    if isinstance(task, (Task, Mixture)):
        return task
    text = str(task)
    file, colon, attribute = text.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_python(Path(file), attribute)
    path = Path(text)
    if text.endswith(".json"):
        return read_task(path)
    try:
        return installed().task(text)
    except UnknownTask:
        if (path / "task.json").is_file():
            return read_task(path / "task.json")
        raise


def one_task(task: str | Path | Task | Mixture) -> Task:
    """Return a task, as `get_task` does; refuse a mixture.

    Raises:
        TaskError: it is a mixture; the text names its tasks.
    """
    found = get_task(task)
    if isinstance(found, Mixture):
        raise TaskError(
            f"'{task}' is a mixture of the tasks {', '.join(t.name for t in found.tasks)}, and here "
            "one of them is needed; name it with task= (--task)"
        )
    return found


def task_in(path: str | Path, task: str | Path | Task | None = None) -> Task:
    """Return what a run does, or does once a task is chosen.

    Args:
        path: the run's folder.
        task: one of its mixture's tasks by name, or any task to be done instead; None for its own.
    Raises:
        TaskError: it is of a mixture, and no task was chosen; the text names those there are.
        UnknownTask: there is no such task.
    """
    found = get_task(Path(path) / "task.json") if (Path(path) / "task.json").is_file() else None
    if isinstance(found, Mixture):
        names = [one.name for one in found.tasks]
        if task is None:
            raise TaskError(
                f"'{path}' learned a mixture of tasks; choose one with task= (--task): "
                f"{', '.join(names)}"
            )
        if task in names:
            return found.task(str(task))
    return one_task(task if task is not None else Path(path) / "task.json")


def _from_python(file: Path, attribute: str) -> Task | Mixture:
    module = module_from_file(file)
    if not hasattr(module, attribute):
        kinds = (Task, Mixture)
        names = [name for name, found in vars(module).items() if isinstance(found, kinds)]
        raise PluginError(
            f"'{file}' has no '{attribute}'; its tasks are: {', '.join(names) or 'none'}"
        )
    found = getattr(module, attribute)
    if not isinstance(found, (Task, Mixture)):
        raise TaskError(f"'{file}:{attribute}' is a {type(found).__name__}, not a Task")
    return found
