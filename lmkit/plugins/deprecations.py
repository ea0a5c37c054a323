"""Hear which deprecated things a plugin uses while it is loaded, so that `lmkit plugins` can tell."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from lmkit.deprecating import LmkitDeprecationWarning


class Hearing:
    """The warnings of several plugins, one after another."""

    def __init__(self) -> None:
        self._held: list[warnings.WarningMessage] = []

    @contextlib.contextmanager
    def of_one(self) -> Iterator[list[str]]:
        """Gather what one plugin is warned of as deprecated, each with its `file:line`."""
        told: list[str] = []
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", LmkitDeprecationWarning)
            try:
                yield told
            finally:
                told += [
                    f"{one.message} ({one.filename}:{one.lineno})"
                    for one in heard
                    if issubclass(one.category, LmkitDeprecationWarning)
                ]
                self._held += heard

    def pass_on(self) -> None:
        """Warn of everything that was heard, as would have been done without a hearing."""
        held, self._held = self._held, []
        for one in held:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
