"""Say that something of lmkit's is on its way out, once for each place that uses it.

docs/compatibility.md is the promise: what is stable is deprecated for two minor versions at least before
it goes, and the warning says since when, until when, and what to write instead.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = str(Path(__file__).parent)


class LmkitDeprecationWarning(DeprecationWarning):
    """Something that will be gone: pytest shows it, and so does `python -W default`."""


_said: set[tuple[str, str, int]] = set()


def deprecated(what: str, *, since: str, gone: str, instead: str) -> None:
    """Warn that something is deprecated, at the line that uses it, and at no line twice.

    Args:
        what: the thing, such as `lmkit.IGNORE`.
        since: the first version that warns, such as `0.2`.
        gone: the first version that will not have it.
        instead: what to use, such as `lmkit.encoding.IGNORE`.

    >>> with warnings.catch_warnings(record=True) as shown:
    ...     warnings.simplefilter("always")
    ...     for _ in range(3):
    ...         deprecated("lmkit.x", since="0.2", gone="0.4", instead="lmkit.y")
    >>> [str(one.message) for one in shown]
    ['lmkit.x is deprecated since lmkit 0.2 and will be gone in 0.4; use lmkit.y']
    """
    file, line, module = _user()
    if (what, file, line) in _said:
        return
    _said.add((what, file, line))
    text = f"{what} is deprecated since lmkit {since} and will be gone in {gone}; use {instead}"
    warnings.warn_explicit(text, LmkitDeprecationWarning, file, line, module)


def _user() -> tuple[str, int, str]:
    """Return file, line and module of the innermost code that is not lmkit's, or the import system's."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((HERE, "<frozen ")):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "?")
