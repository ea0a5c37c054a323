"""Find plugins, load them one by one, and keep what each of them offers.

A plugin that cannot be loaded costs its own tasks and nothing else: it becomes a row in
`lmkit plugins`, and a warning. Built-in plugins come through the same door as anyone's.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from lmkit.errors import DuplicateName, PluginError, near
from lmkit.hooks import PROJECT, Hooks

if TYPE_CHECKING:
    import click

    from lmkit.task import Task

DISTRIBUTION = "lmkit-tasks"
CHOOSE, DISABLE, FILES = "LMKIT_PLUGINS", "LMKIT_DISABLE_PLUGINS", "LMKIT_PLUGIN_FILES"


class PluginWarning(UserWarning):
    """A plugin was left out because it is broken."""


@attrs.frozen(kw_only=True)
class Plugin:
    """One plugin and what came of loading it.

    Attributes:
        name: the entry point's name, or the file's.
        distribution: what to install to get it; None for a file.
        version: the distribution's version.
        path: the module's file.
        package: what it may name functions in: its module's package, or the module.
        tasks: names of the tasks it offers.
        components: names under which JSON knows its classes.
        commands: names of the commands it adds.
        error: why it is broken, or None.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    path: str | None = None
    package: str | None = None
    tasks: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    error: str | None = None

    @property
    def builtin(self) -> bool:
        """Whether lmkit itself ships it."""
        return self.distribution == DISTRIBUTION

    @property
    def source(self) -> str:
        """How to name where it comes from."""
        if self.distribution is None:
            return f"the file {self.path}"
        return f"{self.distribution} {self.version}"


@attrs.frozen(kw_only=True)
class Installed:
    """Everything that the loaded plugins offer.

    Attributes:
        plugins: every plugin found, the broken ones too.
        components: class by its name in JSON, plugins' own only.
        commands: click commands by name.
        conflicts: why no task can be looked up, such as two tasks of one name; often empty.
    """

    plugins: tuple[Plugin, ...]
    components: Mapping[str, type]
    commands: Mapping[str, click.Command]
    conflicts: tuple[str, ...]
    _tasks: Mapping[str, Task]

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Tasks by name.

        Raises:
            DuplicateName: two plugins offer tasks of one name; the text names both distributions.
        """
        if self.conflicts:
            raise DuplicateName("\n".join(self.conflicts))
        return self._tasks

    def plugin_of(self, task_name: str) -> Plugin | None:
        """Return the plugin that offers a task."""
        return next((p for p in self.plugins if task_name in p.tasks), None)


@functools.lru_cache(maxsize=1)
def installed() -> Installed:
    """Return what the installed plugins offer; they are loaded on the first call.

    `LMKIT_PLUGINS=a,b` loads only those (empty: none), `LMKIT_DISABLE_PLUGINS=a` leaves some out,
    and `LMKIT_PLUGIN_FILES=x.py` adds local files.
    """
    found = importlib.metadata.entry_points(group=PROJECT)
    return load(found, os.environ)


def load(
    entry_points: Iterable[importlib.metadata.EntryPoint], environ: Mapping[str, str]
) -> Installed:
    """Load plugins and collect what they offer.

    Args:
        entry_points: where installed plugins are.
        environ: the environment, for the three `LMKIT_...` switches.
    Raises:
        PluginError: a file that was asked for by name cannot be loaded.
    """
    loader = _Loader()
    found = sorted(set(entry_points), key=_builtin_first)
    _warn_of_unknown({entry_point.name for entry_point in found}, environ)
    for entry_point in found:
        if _wanted(entry_point.name, environ):
            loader.add_entry_point(entry_point)
    files = [Path(file) for file in environ.get(FILES, "").split(os.pathsep) if file]
    for file in {file.resolve(): file for file in files}.values():  # named twice is meant once
        if file.stem not in _names(environ.get(DISABLE, "")):
            loader.add_file(file)
    return loader.result()


def _warn_of_unknown(known: set[str], environ: Mapping[str, str]) -> None:
    """Say that a switch names a plugin that is not installed, which is perhaps misspelt."""
    for name in sorted(_names(environ.get(CHOOSE, "")) - known):
        close = near(name, known)
        hint = f"; close to: {', '.join(close)}" if close else ""
        warnings.warn(
            f"{CHOOSE} names '{name}', and no such plugin is installed{hint}",
            PluginWarning,
            stacklevel=3,
        )


def _wanted(name: str, environ: Mapping[str, str]) -> bool:
    chosen = environ.get(CHOOSE)
    if chosen is not None and name not in _names(chosen):
        return False
    return name not in _names(environ.get(DISABLE, ""))


def _names(setting: str) -> set[str]:
    return {name.strip() for name in setting.split(",") if name.strip()}


def _builtin_first(entry_point: importlib.metadata.EntryPoint) -> tuple[bool, str]:
    dist = entry_point.dist
    return (dist is None or dist.name != DISTRIBUTION, entry_point.name)


class _Loader:
    """Registers one plugin after another and keeps what each one offers."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._plugins: list[Plugin] = []
        self._tasks: dict[str, Task] = {}
        self._components: dict[str, type] = {}
        self._commands: dict[str, click.Command] = {}
        self._conflicts: list[str] = []

    def result(self) -> Installed:
        self._manager.check_pending()
        return Installed(
            plugins=tuple(self._plugins),
            components=MappingProxyType(self._components),
            commands=MappingProxyType(self._commands),
            conflicts=tuple(self._conflicts),
            tasks=MappingProxyType(dict(sorted(self._tasks.items()))),
        )

    def add_entry_point(self, entry_point: importlib.metadata.EntryPoint) -> None:
        dist = entry_point.dist
        plugin = Plugin(
            name=entry_point.name,
            distribution=None if dist is None else dist.name,
            version=None if dist is None else dist.version,
        )
        try:
            plugin = self._register(plugin, entry_point.load)
        except (Exception, SystemExit) as error:  # nothing a plugin raises may stop the others
            plugin = attrs.evolve(plugin, error=_reason(error))
            warnings.warn(
                f"the plugin '{plugin.name}' ({plugin.source}) is left out: {plugin.error}; "
                f"{DISABLE}={plugin.name} silences this",
                PluginWarning,
                stacklevel=2,
            )
        self._plugins.append(plugin)

    def add_file(self, path: Path) -> None:
        plugin = Plugin(name=path.stem, path=str(path))
        module = module_from_file(path)
        try:
            plugin = self._register(plugin, lambda: module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"the plugin file '{path}' is broken: {_reason(error)}") from error
        self._plugins.append(plugin)

    def _register(self, plugin: Plugin, import_module: Callable[[], Any]) -> Plugin:
        module = import_module()
        path = getattr(module, "__file__", None)
        package = getattr(module, "__package__", None) or getattr(module, "__name__", None)
        plugin = attrs.evolve(plugin, path=path, package=package)
        if self._manager.has_plugin(plugin.name):
            other = next(p for p in self._plugins if p.name == plugin.name)
            raise PluginError(f"{other.source} has a plugin of the same name")
        if self._manager.is_registered(module):
            raise PluginError(
                f"its module is the plugin '{self._manager.get_name(module)}' already"
            )
        try:
            self._manager.register(module, name=plugin.name)
            return self._collect(plugin, module)
        except BaseException:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            raise

    def _collect(self, plugin: Plugin, module: Any) -> Plugin:
        self._check_hook_names(module)
        tasks = self._results(plugin, "lmkit_tasks")
        components = {
            f"{plugin.name}:{cls.__name__}": cls
            for cls in map(_checked_component, self._results(plugin, "lmkit_components"))
        }
        commands = {command.name: command for command in self._results(plugin, "lmkit_commands")}
        names = [_checked_task(task).name for task in tasks]
        _refuse_twice("task", names)
        _refuse_twice("command", [*self._commands, *commands])
        for task in tasks:
            self._add_task(plugin, task)
        self._components |= components
        self._commands |= commands
        return attrs.evolve(
            plugin, tasks=tuple(names), components=tuple(components), commands=tuple(commands)
        )

    def _check_hook_names(self, module: Any) -> None:
        """Refuse misspelt hooks, one plugin at a time, before pluggy would refuse them all."""
        known = [name for name in vars(Hooks) if name.startswith(f"{PROJECT}_")]
        callers = self._manager.get_hookcallers(module) or []
        for name in known:
            if callable(getattr(module, name, None)) and name not in [c.name for c in callers]:
                raise PluginError(f"its '{name}' is not marked with @hookimpl")
        for caller in callers:
            if not caller.has_spec():
                close = near(caller.name, known)
                hint = f"; close to: {', '.join(close)}" if close else ""
                raise PluginError(f"there is no hook '{caller.name}'{hint}")

    def _results(self, plugin: Plugin, hook: str) -> list[Any]:
        caller = getattr(self._manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin_name == plugin.name:
                return list(implementation.function())
        return []

    def _add_task(self, plugin: Plugin, task: Task) -> None:
        other = next((p for p in self._plugins if task.name in p.tasks), None)
        if other is None:
            self._tasks[task.name] = task
            return
        kept = "built-in names cannot be taken" if other.builtin else "names must be unique"
        self._conflicts.append(
            f"two tasks are named '{task.name}': one from {other.source}, one from "
            f"{plugin.source}; {kept}. Uninstall one, or set {DISABLE}={plugin.name}"
        )


def _checked_task(task: Any) -> Task:
    from lmkit.task import Task

    if not isinstance(task, Task):
        raise PluginError(f"lmkit_tasks returned {task!r}, which is no Task")
    return task


def _checked_component(cls: Any) -> type:
    if not (isinstance(cls, type) and attrs.has(cls)):
        raise PluginError(f"lmkit_components returned {cls!r}, which is no attrs class")
    return cls


def _refuse_twice(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"there are two {kind}s named '{name}'")


def _reason(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def module_from_file(path: Path) -> ModuleType:
    """Import a Python file that the user named.

    Raises:
        PluginError: there is no such file, or importing it fails.
    """
    if not path.is_file():
        raise PluginError(f"there is no plugin file '{path}'")
    # A name of its own, so that a file called json.py does not stand in for the json module.
    spec = importlib.util.spec_from_file_location(f"lmkit_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise PluginError(f"'{path}' cannot be imported: {_reason(error)}") from error
    return module


def distributions_of(plugin_names: Sequence[str]) -> list[dict[str, str | None]]:
    """Return what to install for some plugins: name, distribution and version of each."""
    return [
        {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
        for plugin in installed().plugins
        if plugin.name in plugin_names
    ]
