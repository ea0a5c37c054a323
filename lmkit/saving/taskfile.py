"""`task.json`: a task, or a mixture of tasks, as a file that says who wrote it and what it needs.

A run has one, and whoever wants to keep a task without a plugin may write one: the JSON of the task, with
or without the three keys that lmkit puts before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import PluginError, SerialError
from lmkit.mixing import Mixture, tasks_of
from lmkit.saving.jsonform import from_json
from lmkit.saving.needs import lacking, needed_by, other_versions, settled
from lmkit.saving.schemas import Content, Schema, advice
from lmkit.task import Task

HEADING = ("schema", "lmkit", "plugins")


def _with_heading(content: Content) -> Content:
    return {"lmkit": None, "plugins": [], **content}


# 1 was the task alone; 2 says what wrote it and which plugins it needs.
SCHEMA = Schema(2, {1: _with_heading})


def heading(what: Task | Mixture) -> dict[str, Any]:
    """Return what stands in a `task.json` before the task: schema, version, and plugins it needs."""
    from lmkit import __version__

    needs = {need.plugin: attrs.asdict(need) for task in tasks_of(what) for need in needed_by(task)}
    return {"schema": SCHEMA.newest, "lmkit": __version__, "plugins": list(needs.values())}


def read_task(path: Path) -> Task | Mixture:
    """Return the task, or the mixture of tasks, in a `task.json`.

    Raises:
        SerialError: the file is missing, does not describe a task, or a newer lmkit wrote it.
        PluginError: the task needs a plugin that is not installed; the text says what to install.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SerialError(f"'{path}' cannot be read as JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise SerialError(f"'{path}' does not describe a task: found {type(data).__name__}")
    if "graph" in data and "families" in data:
        raise SerialError(
            f"'{path}' is a bundle's, not a task: lmkit generate {path.parent} --help"
        )
    schema, writer = data.get("schema", SCHEMA.oldest), data.get("lmkit")
    if type(schema) is not int:  # true is an int, too
        raise SerialError(f"'{path}' has a schema that is no whole number: {schema!r}")
    if refusal := SCHEMA.refusal(schema, writer):
        raise SerialError(f"'{path}' {refusal}")
    content = SCHEMA.upgraded(dict(data), schema)
    task = {key: part for key, part in content.items() if key not in HEADING}
    try:
        mixed = task.get("type") == "Mixture"
        found: Any = from_json(task, Mixture) if mixed else from_json(task, Task)
    except PluginError as error:
        if missing := lacking(f"'{path}'", task, content["plugins"]):
            raise missing from error
        raise
    except SerialError as error:
        problem = f"'{path}' does not describe a task: {error}"
        behind = advice(writer) or other_versions(content["plugins"])
        raise SerialError(problem + behind) from error
    whole: Task | Mixture = settled(f"'{path}'", found, content["plugins"])
    return whole
