"""What is known of plugins once they are loaded: a row for each, and all that they offer together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from lmkit.errors import DuplicateName, UnknownTask
from lmkit.plugins.costs import Cost
from lmkit.plugins.switches import DISABLE

if TYPE_CHECKING:
    import click

    from lmkit.task import Task

DISTRIBUTION = "lmkit-tasks"


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
        cost: what loading it took.
        deprecated: what it uses that will be gone, each with its `file:line`.
        error: why it is broken, or None.
        where: the `file:line` where it breaks, if a line is to blame.
        left_out_by: the switch that kept it from being loaded, or None.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    path: str | None = None
    package: str | None = None
    tasks: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    cost: Cost = attrs.field(factory=Cost, eq=False)  # no two loads take the same
    deprecated: tuple[str, ...] = ()
    error: str | None = None
    where: str | None = None
    left_out_by: str | None = None

    @property
    def builtin(self) -> bool:
        """Whether lmkit itself ships it."""
        return self.distribution == DISTRIBUTION

    @property
    def source(self) -> str:
        """How to name where it comes from."""
        if self.distribution is None:
            return f"the file {self.path}"
        return f"{self.distribution} {self.version}" if self.version else self.distribution

    @property
    def state(self) -> str:
        """One of `ok`, `slow`, `broken` and `left out`."""
        if self.left_out_by:
            return "left out"
        if self.error is not None:
            return "broken"
        return "slow" if self.cost.slow else "ok"


@attrs.frozen
class Conflict:
    """A name that several plugins claim, so that none of them has it.

    Attributes:
        kind: `task` or `verb`.
        name: the name.
        claims: the plugins, built-in ones first; one alone if it claims a verb of lmkit's own.
    """

    kind: str
    name: str
    claims: tuple[Plugin, ...]

    @property
    def notice(self) -> str:
        """What the matter is, in few words."""
        if len(self.claims) == 1:
            return str(self)
        sources = " and ".join(plugin.source for plugin in self.claims)
        return (
            f"the {self.kind} '{self.name}' cannot be used, since {sources} each have one; "
            "'lmkit plugins' says what to do"
        )

    def __str__(self) -> str:
        """Return what the matter is, and the ways out."""
        sources = [plugin.source for plugin in self.claims]
        if len(sources) == 1:
            return (
                f"the {self.kind} '{self.name}' of {sources[0]} is not added: lmkit has one of that "
                "name, and built-in names cannot be taken"
            )
        others = [plugin for plugin in self.claims if not plugin.builtin]
        if len(others) < len(self.claims):
            kept = f"built-in names cannot be taken. Uninstall {_alternatives(others)}"
        else:
            kept = "names must be unique. Uninstall one"
        count = "two" if len(sources) == 2 else str(len(sources))
        return (
            f"{count} {self.kind}s are named '{self.name}': one from "
            f"{', one from '.join(sources)}; {kept}, or set {DISABLE}={others[-1].name}"
        )


def _alternatives(plugins: Sequence[Plugin]) -> str:
    return " and ".join(plugin.distribution or plugin.source for plugin in plugins)


@attrs.frozen(kw_only=True)
class Installed:
    """Everything that the loaded plugins offer.

    Attributes:
        plugins: every plugin that was to be loaded, the broken ones too.
        left_out: those that a switch left out; nothing of them was imported.
        tasks: tasks by name; a name that two plugins claim is not among them.
        components: class by its name in JSON, plugins' own only.
        commands: click commands by name; a name that two plugins claim is not among them.
        conflicts: names that two plugins claim; often empty.
        unknown: what is odd about the switches, such as the name of a plugin that is not installed.
    """

    plugins: tuple[Plugin, ...]
    left_out: tuple[Plugin, ...] = ()
    tasks: Mapping[str, Task]
    components: Mapping[str, type]
    commands: Mapping[str, click.Command]
    conflicts: tuple[Conflict, ...] = ()
    unknown: tuple[str, ...] = ()

    def task(self, name: str) -> Task:
        """Return a task.

        Raises:
            DuplicateName: two plugins offer tasks of that name; the text names both distributions.
            UnknownTask: no plugin has a task of that name; near names are listed.
        """
        self._refuse_conflict("task", name)
        if name not in self.tasks:
            raise UnknownTask(name, self.tasks, missing=self.absent(name))
        return self.tasks[name]

    def command(self, name: str) -> click.Command | None:
        """Return a verb that a plugin adds, or None.

        Raises:
            DuplicateName: two plugins add verbs of that name; the text names both distributions.
        """
        self._refuse_conflict("verb", name)
        return self.commands.get(name)

    def plugin_of(self, task_name: str) -> Plugin | None:
        """Return the plugin that offers a task."""
        return next((p for p in self.plugins if task_name in p.tasks), None)

    def _refuse_conflict(self, kind: str, name: str) -> None:
        for conflict in self.conflicts:
            if (conflict.kind, conflict.name) == (kind, name):
                raise DuplicateName(str(conflict))

    def absent(self, name: str) -> str:
        """Say why a plugin that is installed was not loaded; nothing if there is none of that name."""
        for plugin in self.left_out:
            if plugin.name == name:
                return f"the plugin '{name}' ({plugin.source}) is left out by {plugin.left_out_by}"
        for plugin in self.plugins:
            if plugin.name == name and plugin.error is not None:
                return f"the plugin '{name}' ({plugin.source}) is broken: {plugin.error}"
        return ""
