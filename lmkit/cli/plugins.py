"""`lmkit plugins`: what is installed, what each plugin adds and costs, and what is wrong with it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.printing import json_option, print_json, print_table

if TYPE_CHECKING:
    from lmkit.plugins import Installed, Plugin


@click.command(epilog="Example: LMKIT_DISABLE_PLUGINS=haiku lmkit plugins")
@json_option
def plugins(as_json: bool) -> None:
    """List the plugins: where each comes from, what it adds and costs, and what is wrong with it.

    LMKIT_PLUGINS=a,b loads only those (empty: none), LMKIT_DISABLE_PLUGINS=a leaves some out, and
    LMKIT_PLUGIN_FILES=x.py or --plugin x.py adds local files. LMKIT_STRICT_PLUGINS=1 stops every verb at
    the first broken plugin and shows its traceback.
    """
    from lmkit.plugins import PluginWarning, installed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # the list says it all, and once is enough
        found = installed()
    if as_json:
        print_json(
            {
                "plugins": [_facts(plugin) for plugin in found.plugins],
                "left_out": [_facts(plugin) for plugin in found.left_out],
                "conflicts": [str(conflict) for conflict in found.conflicts],
                "unknown": list(found.unknown),
                "switches": _switches(),
            }
        )
        return
    titles = ("name", "distribution", "version", "state", "adds", "seconds", "location")
    print_table(titles, [_cells(plugin) for plugin in found.plugins])
    for line in _remarks(found):
        click.echo(f"\n{line}")


def _facts(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "path": plugin.path,
        "builtin": plugin.builtin,
        "state": plugin.state,
        "tasks": list(plugin.tasks),
        "components": list(plugin.components),
        "commands": list(plugin.commands),
        "seconds": round(plugin.cost.seconds, 4),
        "heavy": list(plugin.cost.heavy),
        "deprecated": list(plugin.deprecated),
        "error": plugin.error,
        "where": plugin.where,
        "left_out_by": plugin.left_out_by,
    }


def _cells(plugin: Plugin) -> tuple[str | None, ...]:
    offers = {
        "task": plugin.tasks,
        "verb": plugin.commands,
        "part": tuple(name.partition(":")[2] for name in plugin.components),
    }
    adds = [
        f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}"
        for kind, names in offers.items()
        if names
    ]
    return (
        plugin.name,
        plugin.distribution,
        plugin.version,
        plugin.state,
        "; ".join(adds),
        f"{plugin.cost.seconds:.3f}",
        plugin.path,
    )


def _remarks(found: Installed) -> Iterator[str]:
    """Yield what the table has no room for, a paragraph each."""
    from lmkit.plugins import DISABLE, STRICT, slowness

    for plugin in found.plugins:
        if plugin.error is not None:
            where = f" ({plugin.where})" if plugin.where else ""
            yield (
                f"broken: '{plugin.name}': {plugin.error}{where}\n"
                f"  {STRICT}=1 shows the traceback, {DISABLE}={plugin.name} leaves it out"
            )
        elif plugin.state == "slow":
            yield f"slow: '{plugin.name}': {slowness(plugin)}"
    for plugin in found.plugins:
        yield from (f"deprecated: '{plugin.name}': {told}" for told in plugin.deprecated)
    for plugin in found.left_out:
        yield f"left out: '{plugin.name}' ({plugin.source}), by {plugin.left_out_by}"
    for conflict in found.conflicts:
        yield f"conflict: {conflict}"
    yield from (f"switches: {unknown}" for unknown in found.unknown)


def _switches() -> dict[str, str | None]:
    from lmkit.plugins import CHOOSE, DISABLE, FILES, STRICT

    return {name: os.environ.get(name) for name in (CHOOSE, DISABLE, FILES, STRICT)}
