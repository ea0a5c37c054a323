"""Which plugins a task needs: written down beside it, compared where it is read, said where they lack.

Answering needs the classes of a task's formatter, collator and decoder, and is refused without them. A
loss, a metric and a transform are for training and measuring: `Absent` stands for one that is missing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from lmkit.errors import PluginError
from lmkit.mixing import Mixture, tasks_of
from lmkit.saving.absent import Absent, Needed
from lmkit.saving.jsonform import plugin_types, to_json
from lmkit.task import Task
from lmkit.transforms import plugins_of

if TYPE_CHECKING:
    from lmkit.plugins import Plugin

T = TypeVar("T", bound=Task | Mixture)

UNASKED = ("loss", "metrics", "transforms")  # of a task's fields, by what answers
SEE = "run 'lmkit plugins' to see what is"


def needed_by(task: Task) -> tuple[Needed, ...]:
    """Return the plugins that a task's classes and functions come from, as they are installed.

    One that is not installed is as it was when the task was written.
    """
    names = {*_plugins_in(plugin_types(_written(task))), *plugins_of(task.transforms)}
    found = {name: _as_installed(name) for name in sorted(names)}
    for part in _absent(task):
        if part.needed is not None and found.get(part.needed.plugin) is None:
            found[part.needed.plugin] = part.needed
    return tuple(need for need in found.values() if need is not None)


def needed_to_answer(task: Task, plugins: Iterable[Needed]) -> tuple[Needed, ...]:
    """Return those of some plugins without which a task answers nothing; training may need more."""
    names = _plugins_in(plugin_types(_for_answers(_written(task))))
    return tuple(need for need in plugins if need.plugin in names)


def requirements(plugins: Iterable[Needed]) -> list[str]:
    """Return what to hand to `pip install` for some plugins, quoted; files have nothing."""
    return [need.requirement for need in plugins if need.distribution is not None]


def lacking(what: str, task: Any, plugins: Any) -> PluginError | None:
    """Return the error that says what to do about a task that cannot be read; None if nothing lacks.

    Args:
        what: what needs it, such as `the bundle's task`.
        task: the task as JSON, not checked yet, so it may be anything.
        plugins: what is written beside it, a list of `Needed` as JSON, not checked yet either.
    """
    components = _components(task)
    missing = [name for name in plugin_types(_for_answers(task)) if name not in components]
    if not missing:
        return None
    return PluginError(
        f"{what} needs {', '.join(missing)}, {_remedy(_plugins_in(missing), _listed(plugins))}"
    )


def settled(what: str, found: T, plugins: Any) -> T:
    """Return a task that was read, having warned of plugins in other versions than it was made with.

    Args:
        what: what it was read from, such as `the bundle`.
        found: the task, or the mixture.
        plugins: what is written beside it, a list of `Needed` as JSON, not checked yet.
    """
    needs = _listed(plugins)
    if not needs:
        return found
    tasks = [_advised(what, task, needs) for task in tasks_of(found)]
    for need, other in _differing(needs):
        _warn(what, tasks, need, other)
    whole: Any = found.with_tasks(tasks) if isinstance(found, Mixture) else tasks[0]
    return cast("T", whole)


def other_versions(plugins: Any) -> str:
    """Say, behind what is wrong with a task, that plugins have other versions; mostly nothing.

    Args:
        plugins: what is written beside it, not checked yet.
    """
    return "".join(
        f"; it was made with {need.source}, and {other.source} is installed{_again(need)}"
        for need, other in _differing(_listed(plugins))
    )


def _warn(what: str, tasks: Sequence[Task], need: Needed, other: Plugin) -> None:
    from lmkit.plugins import PluginWarning

    answers = any(needed_to_answer(task, [need]) for task in tasks)
    touched = "answers" if answers else "training and figures"
    warnings.warn(
        f"{what} was made with {need.source}, and {other.source} is installed, so its {touched} may "
        f"differ{_again(need)}",
        PluginWarning,
        stacklevel=4,
    )


def _again(need: Needed) -> str:
    return f"; pip install {need.requirement} for what it was" if need.distribution else ""


def _differing(needs: Sequence[Needed]) -> Iterator[tuple[Needed, Plugin]]:
    """Yield what was needed and what is installed in its place, where that is another version.

    lmkit's own plugins are of lmkit's version, for which files have a schema.
    """
    for need in needs:
        there = _installed(need.plugin)
        if there is None or there.builtin:
            continue
        if (there.distribution, there.version) != (need.distribution, need.version):
            yield need, there


def _advised(what: str, task: Task, needs: Sequence[Needed]) -> Task:
    """Return a task whose absent parts say what to install for them."""
    if not any(True for _ in _absent(task)):
        return task

    def advised(part: Any) -> Any:
        if not isinstance(part, Absent):
            return part
        plugin = _plugin_of(part, needs)
        need = next((need for need in needs if need.plugin == plugin), None)
        remedy = _remedy([plugin], needs) if plugin else part.advice
        return attrs.evolve(part, needed=need, advice=f"{what} has the {part}, {remedy}")

    return task.evolve(
        loss=advised(task.loss),
        metrics=[advised(metric) for metric in task.metrics],
        transforms=[advised(transform) for transform in task.transforms],
    )


def _absent(task: Task) -> Iterator[Absent]:
    for part in (task.loss, *task.metrics, *task.transforms):
        if isinstance(part, Absent):
            yield part


def _plugin_of(part: Absent, needs: Sequence[Needed]) -> str | None:
    """Return the plugin that an absent part is of; of a function it is the only one that can be."""
    plugin, colon, _ = str(part.content["type"]).partition(":")
    if colon:
        return plugin
    gone = [need.plugin for need in needs if _installed(need.plugin) is None]
    return gone[0] if len(gone) == 1 else None


def _remedy(plugins: Sequence[str], needs: Sequence[Needed]) -> str:
    """Say why what some plugins have is not there, and what to type."""
    from lmkit.plugins import FILES

    listed = {need.plugin: need for need in needs}
    found = {plugin: listed.get(plugin) for plugin in plugins}
    whys = dict.fromkeys(_why(plugin, need) for plugin, need in found.items())
    packages, files, unknown = [], [], []
    for plugin, need in found.items():
        if _trouble(plugin):
            continue
        if need is None:
            unknown.append(plugin)
        elif need.distribution is None:
            files += [f"{plugin}.py"] if _installed(plugin) is None else []
        else:
            there = _installed(plugin)
            same = there is not None and need.source == there.source
            packages.append(("--force-reinstall " if same else "") + need.requirement)
    ways = [f"pip install {' '.join(packages)}"] if packages else []
    if files:
        named = " ".join(f"--plugin {file}" for file in files)
        ways.append(f"name it with {named}, or {FILES}={os.pathsep.join(files)}")
    if unknown:
        names = " and ".join(f"'{name}'" for name in unknown)
        ways.append(f"install the plugin {names}, or name its file with --plugin")
    switches = {row.left_out_by for row in _left_out(plugins)}
    ways += [f"unset {switch}, or change it" for switch in sorted(filter(None, switches))]
    return f"and {' and '.join(whys)}; {'; '.join(ways) or SEE}"


def _why(plugin: str, need: Needed | None) -> str:
    there = _installed(plugin)
    if trouble := _trouble(plugin):
        return trouble
    if there is not None:
        loaded = "loaded" if there.distribution is None else "installed"
        return f"{there.source}, which is {loaded}, does not offer it"
    if need is not None and need.distribution is None:
        return f"it came from the plugin file {plugin}.py, which no package has"
    return "no installed plugin offers it"


def _trouble(plugin: str) -> str:
    """Say why a plugin that is installed was not loaded, or nothing."""
    from lmkit.plugins import installed

    return installed().absent(plugin) if _installed(plugin) is None else ""


def _installed(plugin: str) -> Plugin | None:
    from lmkit.plugins import installed

    return next((p for p in installed().plugins if p.name == plugin and p.error is None), None)


def _left_out(plugins: Sequence[str]) -> list[Plugin]:
    from lmkit.plugins import installed

    return [row for row in installed().left_out if row.name in plugins]


def _as_installed(plugin: str) -> Needed | None:
    there = _installed(plugin)
    if there is None:
        return None
    return Needed(plugin=plugin, distribution=there.distribution, version=there.version)


def _listed(plugins: Any) -> list[Needed]:
    """Return what is written of plugins, without what is damaged."""
    entries = plugins if isinstance(plugins, (list, tuple)) else []
    found = []
    for entry in entries:
        if isinstance(entry, Needed):
            found.append(entry)
        elif isinstance(entry, Mapping) and "distribution" in entry:
            plugin, source, version = map(entry.get, ("plugin", "distribution", "version"))
            if isinstance(plugin, str) and all(
                isinstance(t, str | None) for t in (source, version)
            ):
                found.append(Needed(plugin=plugin, distribution=source, version=version))
    return found


def _components(task: Any) -> Mapping[str, type]:
    """Return the plugins' classes, which a task without any does not look up."""
    from lmkit.plugins import installed

    return installed().components if plugin_types(task) else {}


def _plugins_in(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.partition(":")[0] for name in names))


def _written(task: Task) -> dict[str, Any]:
    return to_json(task.evolve(transforms=()))  # some of which have no name, and need none in a run


def _for_answers(data: Any) -> Any:
    """Return a task's JSON, or a mixture's, without what answering does not ask."""
    if isinstance(data, Mapping):
        unasked = UNASKED if data.get("type") == "Task" else ()
        return {key: _for_answers(part) for key, part in data.items() if key not in unasked}
    return [_for_answers(part) for part in data] if isinstance(data, (list, tuple)) else data
