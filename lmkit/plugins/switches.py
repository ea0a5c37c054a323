"""What the environment says of plugins: which to load, which files are plugins, and how strictly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from lmkit.errors import near

CHOOSE, DISABLE, FILES = "LMKIT_PLUGINS", "LMKIT_DISABLE_PLUGINS", "LMKIT_PLUGIN_FILES"
STRICT = "LMKIT_STRICT_PLUGINS"


@attrs.frozen(kw_only=True)
class Switches:
    """The four switches, read.

    Attributes:
        chosen: the only plugins to load, or None for all.
        disabled: plugins to leave out, of the chosen ones too.
        files: Python files that are plugins.
        strict: whether the first plugin that is broken stops everything, as its author may wish.
    """

    chosen: frozenset[str] | None = None
    disabled: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()
    strict: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Switches:
        """Return what an environment says.

        >>> Switches.read({"LMKIT_PLUGINS": "chat, qa"}).leaves_out("mlm")
        'LMKIT_PLUGINS'
        """
        files = [Path(file) for file in environ.get(FILES, "").split(os.pathsep) if file]
        return cls(
            chosen=_names(environ[CHOOSE]) if CHOOSE in environ else None,
            disabled=_names(environ.get(DISABLE, "")),
            files=tuple({file.resolve(): file for file in files}.values()),  # twice is meant once
            strict=environ.get(STRICT, "") not in ("", "0"),
        )

    def leaves_out(self, name: str) -> str | None:
        """Return the switch that leaves an installed plugin out, or None if it is to be loaded."""
        if name in self.disabled:
            return DISABLE
        return CHOOSE if self.chosen is not None and name not in self.chosen else None

    def unknown(self, installed: Iterable[str]) -> Iterator[str]:
        """Say of each plugin that was chosen and is not installed that its name may be misspelt."""
        known = set(installed)
        for name in sorted((self.chosen or frozenset()) - known):
            close = near(name, known)
            hint = f"; close to: {', '.join(close)}" if close else ""
            yield f"{CHOOSE} names '{name}', and no such plugin is installed{hint}"


def _names(setting: str) -> frozenset[str]:
    return frozenset(name.strip() for name in setting.split(",") if name.strip())
