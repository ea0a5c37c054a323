"""What a plugin may offer: three hooks, each returning values.

A plugin is a module that an installed distribution names in the entry-point group `lmkit`:

    [project.entry-points.lmkit]
    haiku = "lmkit_haiku"

It implements any of the hooks below with the `hookimpl` marker. Hooks are called once, when tasks,
components or commands are first looked up. Importing a plugin should be quick: torch and its like
belong inside functions, and `lmkit plugins` names who imports them otherwise.
docs/compatibility.md says what a plugin may rely on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from lmkit.task import Task

PROJECT = "lmkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """The hook specifications; every plugin's results count, in no particular order."""

    @hookspec
    def lmkit_tasks(self) -> Iterable[Task]:
        """Return the plugin's tasks.

        Called once, before the first task is looked up. A name that two plugins have is nobody's:
        looking it up is an error that names both. `get_task` may be asked for a built-in task to
        vary; another plugin's is imported from its module, since it may be loaded later.

            @hookimpl
            def lmkit_tasks():
                return [Task(name="haiku", formatter=..., collator=..., decoder=...)]
        """
        raise NotImplementedError

    @hookspec
    def lmkit_components(self) -> Iterable[type]:
        """Return the plugin's own formatter, collator, decoder, loss and metric classes.

        Called once, before a task is read from JSON or written to it: JSON names a class as
        `plugin:Class`, and this is how the name is found again. Each must be an attrs class.

            @hookimpl
            def lmkit_components():
                return [SyllableDecoder]
        """
        raise NotImplementedError

    @hookspec
    def lmkit_commands(self) -> Iterable[click.Command]:
        """Return click commands to add to the `lmkit` command; they cannot replace its own.

        Called with the other hooks, and by the command line when it meets a verb that is not built
        in; `lmkit --help` loads no plugins.

            @hookimpl
            def lmkit_commands():
                return [count_syllables]
        """
        raise NotImplementedError
