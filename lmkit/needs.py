"""Which plugins a task needs, written down beside it, and said where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmkit.errors import PluginError
from lmkit.jsonform import plugin_types, to_json
from lmkit.task import Task
from lmkit.transforms import plugins_of


@attrs.frozen(kw_only=True)
class Needed:
    """A plugin that the task's classes come from."""

    plugin: str
    distribution: str | None
    version: str | None


def needed_by(task: Task) -> tuple[Needed, ...]:
    """Return the plugins that a task's classes and functions come from, as they are installed."""
    from lmkit.plugins import distributions_of  # which a bundle without plugins never asks for

    names = [name.partition(":")[0] for name in plugin_types(to_json(task))]
    names += plugins_of(task.transforms)
    return tuple(
        Needed(plugin=str(p["plugin"]), distribution=p["distribution"], version=p["version"])
        for p in distributions_of(names)
    )


def _found(plugins: set[str]) -> str:
    return "install the plugin " + " and ".join(f"'{name}'" for name in sorted(plugins))


def lacking(what: str, task: Any, plugins: Any) -> PluginError | None:
    """Return the error that says what to install for a task, or None if its classes are all there.

    Args:
        what: what needs it, such as `the bundle's task`.
        task: the task as JSON, not checked yet, so it may be anything.
        plugins: what is written beside it, a list of `Needed` as JSON, not checked yet either.
    """
    from lmkit.plugins import installed

    missing = [name for name in plugin_types(task) if name not in installed().components]
    if not missing:
        return None
    absent = {name.partition(":")[0] for name in missing}
    entries = plugins if isinstance(plugins, list) else []
    needs = [
        entry
        for entry in entries
        if isinstance(entry, Mapping)
        and entry.get("plugin") in absent
        and entry.get("distribution")
    ]
    install = " ".join(f"'{need['distribution']}=={need.get('version')}'" for need in needs)
    return PluginError(
        f"{what} needs {', '.join(missing)}, and no installed plugin offers it; "
        + (
            f"pip install {install}"
            if install
            else f"{_found(absent)}, or name its file with --plugin"
        )
    )
