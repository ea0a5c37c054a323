"""Find the installed distributions that name a plugin, whatever state the others are in."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import attrs

from lmkit.hooks import PROJECT
from lmkit.plugins.plugin import DISTRIBUTION, Plugin
from lmkit.plugins.reasons import reason

NAMELESS = "a distribution without METADATA"


@attrs.frozen
class Finding:
    """What is installed.

    Attributes:
        entry_points: where plugins are.
        unreadable: a broken row for each plugin whose entry point cannot be read.
    """

    entry_points: tuple[importlib.metadata.EntryPoint, ...] = ()
    unreadable: tuple[Plugin, ...] = ()


def find() -> Finding:
    """Return the plugins that are installed; nothing of them is imported."""
    try:
        return Finding(tuple(importlib.metadata.entry_points(group=PROJECT)))
    except Exception:
        # One file that cannot be read, of any distribution at all, stops importlib.metadata.
        return _find_one_by_one()


def _find_one_by_one() -> Finding:
    found: list[importlib.metadata.EntryPoint] = []
    unreadable: list[Plugin] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name, version = named(distribution)
        if name in seen:  # shadowed by one that stands earlier on the path
            continue
        if name != NAMELESS:
            seen.add(name)
        try:
            found += distribution.entry_points.select(group=PROJECT)
        except Exception as error:  # which is nobody's concern unless it is a plugin's
            if _may_be_a_plugin(distribution, name):
                unreadable.append(
                    Plugin(
                        name=name,
                        distribution=name,
                        version=version,
                        path=str(distribution.locate_file("")),
                        error=f"its entry_points.txt cannot be read: {reason(error)}",
                    )
                )
    return Finding(tuple(found), tuple(unreadable))


def named(distribution: importlib.metadata.Distribution) -> tuple[str, str | None]:
    """Return a distribution's name and version, which one that is half removed has no longer."""
    try:
        metadata = distribution.metadata  # parsed anew at each look
        name, version = metadata["Name"], metadata["Version"]
    except Exception:  # the file is missing, or is no text
        return NAMELESS, None
    if not name:
        return NAMELESS, version
    return (DISTRIBUTION if name.replace("_", "-").lower() == DISTRIBUTION else name), version


def file_of(entry_point: importlib.metadata.EntryPoint) -> str | None:
    """Return the file of a plugin's module, without importing it; None if there is none."""
    module = entry_point.value.partition(":")[0].strip()
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin


def _may_be_a_plugin(distribution: importlib.metadata.Distribution, name: str) -> bool:
    try:
        return f"[{PROJECT}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:  # not even text
        return PROJECT in name
