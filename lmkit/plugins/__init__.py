"""Find plugins, load them one by one, and keep what each of them offers.

A plugin that cannot be loaded costs its own tasks and nothing else: it becomes a row in
`lmkit plugins`, and a warning. Built-in plugins come through the same door as anyone's.

`finding` lists what is installed, `switches` says what of it is wanted, `loading` imports and asks each
one in turn (`checking` what it returns, `costs` what that took, `reasons` why it failed), and `plugin`
is what is known afterwards.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Sequence

from lmkit.plugins.files import module_from_file
from lmkit.plugins.finding import find
from lmkit.plugins.loading import Loader, PluginWarning, load, slowness
from lmkit.plugins.plugin import DISTRIBUTION, Conflict, Installed, Plugin
from lmkit.plugins.reasons import within
from lmkit.plugins.switches import CHOOSE, DISABLE, FILES, STRICT, Switches

__all__ = [
    "CHOOSE",
    "DISABLE",
    "DISTRIBUTION",
    "FILES",
    "STRICT",
    "Conflict",
    "Installed",
    "Plugin",
    "PluginWarning",
    "distributions_of",
    "installed",
    "load",
    "module_from_file",
    "raised_in",
    "slowness",
]


class _Once:
    """Loads the installed plugins on the first call, and returns the same ever after."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loader: Loader | None = None
        self._found: Installed | None = None

    def __call__(self) -> Installed:
        """Return what the installed plugins offer.

        `LMKIT_PLUGINS=a,b` loads only those (empty: none), `LMKIT_DISABLE_PLUGINS=a` leaves some out,
        `LMKIT_PLUGIN_FILES=x.py` adds local files, and `LMKIT_STRICT_PLUGINS=1` stops at the first
        that is broken. A plugin that asks while it is being loaded, such as for a built-in task to
        vary, is told of those that were loaded before it.
        """
        with self._lock:
            if self._found is not None:
                return self._found
            if self._loader is not None:
                return self._loader.so_far()
            self._loader = Loader(Switches.read(os.environ))
            try:
                self._found = self._loader.load(find())
            finally:
                self._loader = None
            return self._found

    @property
    def loaded(self) -> bool:
        """Whether the next call returns what is loaded already."""
        return self._found is not None

    def cache_clear(self) -> None:
        """Forget what was loaded, so that the next call loads it anew."""
        self._found = None


installed = _Once()


def raised_in(error: BaseException) -> Plugin | None:
    """Return the plugin, none of lmkit's own, whose code an error came from last; None if no one's."""
    if not installed.loaded:
        return None
    others = [plugin for plugin in installed().plugins if plugin.path and not plugin.builtin]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for plugin in others:
            if within(frame.f_code.co_filename, str(plugin.path)):
                return plugin
    return None


def distributions_of(plugin_names: Sequence[str]) -> list[dict[str, str | None]]:
    """Return what to install for some plugins: name, distribution and version of each."""
    return [
        {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
        for plugin in installed().plugins
        if plugin.name in plugin_names
    ]
