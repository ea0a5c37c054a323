"""What a plugin's module and its hooks must be, checked one plugin at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.errors import PluginError, near
from lmkit.hooks import PROJECT, Hooks

if TYPE_CHECKING:
    import click
    import pluggy

    from lmkit.task import Task

NAMES = tuple(name for name in vars(Hooks) if name.startswith(f"{PROJECT}_"))


def check_hook_names(module: Any, callers: Sequence[pluggy.HookCaller]) -> None:
    """Refuse misspelt hooks of one plugin, before pluggy would refuse all plugins for them.

    Args:
        module: the plugin.
        callers: pluggy's callers of the hooks that it found in the plugin.
    Raises:
        PluginError: a hook is misspelt, or not marked as one.
    """
    found = [caller.name for caller in callers]
    for name in NAMES:
        if callable(getattr(module, name, None)) and name not in found:
            raise PluginError(f"its '{name}' is not marked with @hookimpl")
    for caller in callers:
        if not caller.has_spec():
            close = near(caller.name, NAMES)
            hint = f"; close to: {', '.join(close)}" if close else ""
            raise PluginError(f"there is no hook '{caller.name}'{hint}")


def checked_tasks(found: Any) -> list[Task]:
    """Return what `lmkit_tasks` returned, if it is tasks of different names."""
    from lmkit.task import Task

    tasks = list(_each("lmkit_tasks", found, lambda one: isinstance(one, Task), "Task"))
    _refuse_twice("task", [task.name for task in tasks])
    return tasks


def checked_components(found: Any) -> list[type]:
    """Return what `lmkit_components` returned, if it is attrs classes of different names."""
    classes = list(_each("lmkit_components", found, _is_component, "attrs class"))
    _refuse_twice("component", [cls.__name__ for cls in classes])
    return classes


def checked_commands(found: Any) -> dict[str, click.Command]:
    """Return what `lmkit_commands` returned, by name, if it is click commands of different names."""
    import click

    commands: list[click.Command] = list(
        _each("lmkit_commands", found, lambda one: isinstance(one, click.Command), "click command")
    )
    for command in commands:
        if not command.name:
            raise PluginError(f"lmkit_commands returned {command!r}, which has no name")
    names = [str(command.name) for command in commands]
    _refuse_twice("command", names)
    return dict(zip(names, commands, strict=True))


def _each(hook: str, found: Any, fits: Callable[[Any], bool], kind: str) -> Iterator[Any]:
    if fits(found) or not isinstance(found, Iterable):
        raise PluginError(f"{hook} returned {found!r}; expected a list, such as [a {kind}]")
    for one in found:
        if not fits(one):
            raise PluginError(f"{hook} returned {one!r}, which is no {kind}")
        yield one


def _is_component(found: Any) -> bool:
    return isinstance(found, type) and attrs.has(found)


def _refuse_twice(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"there are two {kind}s named '{name}'")
