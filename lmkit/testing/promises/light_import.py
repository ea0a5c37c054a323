"""Importing what a task is made of imports no torch: plugins are imported by every command."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from typing import Any

import attrs

from lmkit.task import Task
from lmkit.testing.broken import Broken, DoesNotApply
from lmkit.testing.case import Case
from lmkit.testing.elsewhere import ProcessFailed, asked_elsewhere

HEAVY = (
    "accelerate",
    "datasets",
    "jax",
    "onnx",
    "onnxscript",
    "pandas",
    "peft",
    "sklearn",
    "tensorflow",
    "torch",
    "transformers",
)

_LOOK = """
import importlib, json, sys
from lmkit.plugins import module_from_file
from pathlib import Path
names, heavy = json.loads(sys.argv[1])
found = {}
for name in names:
    module_from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    new = [package for package in heavy if package in sys.modules]
    if new:
        found[name] = new
        break
print(json.dumps(found))
"""


def check(case: Case) -> None:
    """Check the modules that define the task's parts, in a process of their own.

    Raises:
        Broken: one of them imports a heavy package, or cannot be imported.
        DoesNotApply: all of the task is lmkit's own, or was made in a script.
    """
    names = modules_of(case.declared)
    if not names:
        raise DoesNotApply("no module besides lmkit's own defines a part of the task")
    for name, packages in dragged_in(names).items():
        raise Broken(
            f"importing the module {name} imports {', '.join(packages)}, which takes seconds "
            "wherever lmkit starts, and is not there where bundles answer",
            "import it inside the function that needs it",
        )


def modules_of(task: Task) -> tuple[str, ...]:
    """Return the modules that define a task, or a part of it, but for lmkit's own."""
    found = {kind.__module__ for kind in _classes(task)}
    for transform in task.transforms:
        found.add(getattr(getattr(transform, "function", None), "__module__", "") or "")
    found.add(_plugin_of(task))
    return tuple(sorted(_importable(name) for name in found if name and not _own(name)))


def _own(name: str) -> bool:
    return name == "__main__" or name.partition(".")[0] in ("lmkit", "builtins", "attr", "attrs")


def _classes(part: Any) -> Iterator[type]:
    """Yield the classes of a value and of all that it is made of."""
    if attrs.has(type(part)):
        yield type(part)
        for field in attrs.fields(type(part)):
            yield from _classes(getattr(part, field.name))
    elif isinstance(part, (tuple, list)):
        for one in part:
            yield from _classes(one)


def _importable(name: str) -> str:
    """Return a module's name, or the path of a file that was named with --plugin."""
    if name.startswith("lmkit_file_"):
        return str(getattr(sys.modules.get(name), "__file__", ""))
    return name


def _plugin_of(task: Task) -> str:
    """Return the module of the installed plugin that offers the task, or nothing."""
    from lmkit.plugins import installed

    for plugin in installed().plugins:
        name = plugin.package or ""
        if task.name in plugin.tasks and plugin.distribution and name in sys.modules:
            return name
    return ""


@functools.cache
def dragged_in(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the heavy packages that importing some modules imports, by the first that does.

    Raises:
        Broken: a module cannot be imported in a process of its own.
    """
    try:
        found: dict[str, list[str]] = asked_elsewhere(_LOOK, json.dumps([names, HEAVY]))
    except ProcessFailed as error:
        raise Broken(
            f"{', '.join(names)} cannot be imported in a process of its own: {error}",
            "put what the task is made of into a module that can be imported by its name",
        ) from error
    return found
