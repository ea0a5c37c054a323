"""Load plugins one by one; one that is broken costs its own tasks and nothing else."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from lmkit.errors import DuplicateName, PluginError
from lmkit.hooks import PROJECT, Hooks
from lmkit.plugins.checking import (
    check_hook_names,
    checked_commands,
    checked_components,
    checked_tasks,
)
from lmkit.plugins.costs import SLOW_S, Meter
from lmkit.plugins.deprecations import Hearing
from lmkit.plugins.files import module_from_file
from lmkit.plugins.finding import Finding, file_of, named
from lmkit.plugins.plugin import Conflict, Installed, Plugin
from lmkit.plugins.reasons import place, reason
from lmkit.plugins.switches import DISABLE, Switches
from lmkit.verbs import VERBS

if TYPE_CHECKING:
    import click

    from lmkit.task import Task


class PluginWarning(UserWarning):
    """A plugin is left out because it is broken, or is a burden to the others."""


class Loader:
    """Registers one plugin after another, and keeps what each one offers.

    Args:
        switches: which plugins to load.
    """

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._plugins: list[Plugin] = []
        self._left_out: list[Plugin] = []
        self._tasks: list[tuple[Plugin, Task]] = []
        self._components: dict[str, type] = {}
        self._commands: list[tuple[Plugin, str, click.Command]] = []
        self._unknown: list[str] = []
        self._hearing = Hearing()

    def load(self, found: Finding) -> Installed:
        """Load everything that the switches allow; warn once of each thing that is wrong.

        Raises:
            PluginError: a file that was asked for by name cannot be loaded; or any plugin, where the
                switches are strict.
            DuplicateName: two plugins claim one name, and the switches are strict.
        """
        # What every plugin imports is the cost of none of them.
        import lmkit.task  # noqa: F401

        rows = _rows(found.entry_points)
        self._unknown += self._switches.unknown(row.name for row, _ in rows)
        with contextlib.redirect_stdout(sys.stderr):  # a verb's output may be JSON, and is its own
            for row, entry_point in rows:
                self._add_installed(row, entry_point)
            for row in found.unreadable:
                if not self._is_left_out(row):
                    self._plugins.append(row)
            for file in self._switches.files:
                self._add_file(file)
        self._manager.check_pending()
        loaded = self.so_far()
        if self._switches.strict:
            _refuse(loaded)
        self._hearing.pass_on()
        for notice in _notices(loaded):
            warnings.warn(notice, PluginWarning, stacklevel=3)
        return loaded

    def so_far(self) -> Installed:
        """Return what the plugins offer that were loaded until now; lmkit's own come first."""
        tasks, task_conflicts = _settled(
            "task", [(plugin, task.name, task) for plugin, task in self._tasks]
        )
        commands, verb_conflicts = _settled("verb", self._commands, taken=VERBS)
        return Installed(
            plugins=tuple(self._plugins),
            left_out=tuple(self._left_out),
            tasks=MappingProxyType(dict(sorted(tasks.items()))),
            components=MappingProxyType(dict(self._components)),
            commands=MappingProxyType(commands),
            conflicts=(*task_conflicts, *verb_conflicts),
            unknown=tuple(self._unknown),
        )

    def _is_left_out(self, row: Plugin) -> bool:
        switch = self._switches.leaves_out(row.name)
        if switch is not None:
            self._left_out.append(attrs.evolve(row, left_out_by=switch))
        return switch is not None

    def _add_installed(self, row: Plugin, entry_point: importlib.metadata.EntryPoint) -> None:
        if self._is_left_out(row):
            return
        meter = Meter()
        try:
            row = self._heard(row, entry_point.load)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # nothing else that a plugin raises may stop the others
            if self._switches.strict:
                raise PluginError(
                    f"the plugin '{row.name}' ({row.source}) is broken: {reason(error)}"
                ) from error
            path = row.path or file_of(entry_point)
            row = attrs.evolve(row, path=path, error=reason(error), where=place(error, path))
        self._plugins.append(attrs.evolve(row, cost=meter.read()))

    def _add_file(self, path: Path) -> None:
        row = Plugin(name=path.stem, path=str(path))
        # LMKIT_PLUGINS chooses among what is installed; a file was chosen by its name.
        if path.stem in self._switches.disabled:
            self._left_out.append(attrs.evolve(row, left_out_by=DISABLE))
            return
        meter = Meter()
        module = module_from_file(path)
        try:
            row = self._heard(row, lambda: module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"the plugin file '{path}' is broken: {reason(error)}") from error
        self._plugins.append(attrs.evolve(row, cost=meter.read()))

    def _heard(self, row: Plugin, import_module: Callable[[], Any]) -> Plugin:
        with self._hearing.of_one() as told:
            row = self._registered(row, import_module)
        return attrs.evolve(row, deprecated=tuple(told))

    def _registered(self, row: Plugin, import_module: Callable[[], Any]) -> Plugin:
        """Import a plugin and keep what it offers; nothing of it stays if it is broken."""
        self._refuse_same_name(row)
        module = import_module()
        path = getattr(module, "__file__", None)
        package = getattr(module, "__package__", None) or getattr(module, "__name__", None)
        row = attrs.evolve(row, path=path, package=package)
        if self._manager.is_registered(module):
            raise PluginError(
                f"its module is the plugin '{self._manager.get_name(module)}' already"
            )
        try:
            self._manager.register(module, name=row.name)
            return self._collected(row, module)
        except BaseException:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            raise

    def _refuse_same_name(self, row: Plugin) -> None:
        for other in self._plugins:
            if other.name == row.name and other.error is None:
                raise PluginError(f"{other.source} has a plugin of the same name")

    def _collected(self, row: Plugin, module: Any) -> Plugin:
        check_hook_names(module, self._manager.get_hookcallers(module) or [])
        tasks = checked_tasks(self._results(row, "lmkit_tasks"))
        classes = checked_components(self._results(row, "lmkit_components"))
        commands = checked_commands(self._results(row, "lmkit_commands"))
        components = {f"{row.name}:{cls.__name__}": cls for cls in classes}
        row = attrs.evolve(
            row,
            tasks=tuple(task.name for task in tasks),
            components=tuple(components),
            commands=tuple(commands),
        )
        self._tasks += [(row, task) for task in tasks]
        self._components |= components
        self._commands += [(row, name, command) for name, command in commands.items()]
        return row

    def _results(self, row: Plugin, hook: str) -> Any:
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin_name == row.name:
                return implementation.function()
        return ()


def load(
    entry_points: Iterable[importlib.metadata.EntryPoint], environ: Mapping[str, str]
) -> Installed:
    """Load plugins and collect what they offer.

    Args:
        entry_points: where installed plugins are.
        environ: the environment, for the `LMKIT_...` switches.
    Raises:
        PluginError: a file that was asked for by name cannot be loaded.
    """
    return Loader(Switches.read(environ)).load(Finding(tuple(entry_points)))


def _rows(
    entry_points: Iterable[importlib.metadata.EntryPoint],
) -> list[tuple[Plugin, importlib.metadata.EntryPoint]]:
    """Return a row for each entry point, lmkit's own first; one that is found twice counts once."""
    rows: dict[tuple[Plugin, str], importlib.metadata.EntryPoint] = {}
    for entry_point in entry_points:
        row = Plugin(name=entry_point.name)
        if entry_point.dist is not None:
            distribution, version = named(entry_point.dist)
            row = attrs.evolve(row, distribution=distribution, version=version)
        rows.setdefault((row, entry_point.value), entry_point)
    found = [(row, entry_point) for (row, _), entry_point in rows.items()]
    return sorted(found, key=lambda one: (not one[0].builtin, one[0].name, one[0].source))


def _settled(
    kind: str, claims: Iterable[tuple[Plugin, str, Any]], *, taken: Container[str] = ()
) -> tuple[dict[str, Any], list[Conflict]]:
    """Return what has a name of its own, and the conflicts about the names that it has not."""
    by_name: dict[str, list[tuple[Plugin, Any]]] = {}
    for plugin, name, found in claims:
        by_name.setdefault(name, []).append((plugin, found))
    alone = {name for name, some in by_name.items() if len(some) == 1 and name not in taken}
    conflicts = [
        Conflict(kind, name, tuple(plugin for plugin, _ in some))
        for name, some in by_name.items()
        if name not in alone
    ]
    return {name: by_name[name][0][1] for name in by_name if name in alone}, conflicts


def _notices(loaded: Installed) -> Iterator[str]:
    """Yield what to warn of, one line a thing."""
    yield from loaded.unknown
    for plugin in loaded.plugins:
        named = f"the plugin '{plugin.name}' ({plugin.source})"
        if plugin.error is not None:
            yield f"{named} is left out: {plugin.error}; {DISABLE}={plugin.name} silences this"
        elif plugin.state == "slow" and plugin.distribution and not plugin.builtin:
            yield f"{named} is slow: {slowness(plugin)}; {DISABLE}={plugin.name} leaves it out"
    yield from (conflict.notice for conflict in loaded.conflicts)


def slowness(plugin: Plugin) -> str:
    """Say why a plugin is slow, and what its author would do."""
    seconds = f"{plugin.cost.seconds:.1f} s"
    if plugin.cost.heavy:
        names = ", ".join(plugin.cost.heavy)
        return f"it imports {names} when it is loaded ({seconds}), which belongs inside functions"
    return f"it takes {seconds} to load, and {SLOW_S:.0f} s is much"


def _refuse(loaded: Installed) -> None:
    for plugin in loaded.plugins:
        if plugin.error is not None:
            raise PluginError(f"the plugin '{plugin.name}' ({plugin.source}): {plugin.error}")
    if loaded.conflicts:
        raise DuplicateName("\n".join(map(str, loaded.conflicts)))
