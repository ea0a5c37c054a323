"""Why a plugin is broken, in one line, and where."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path

import pluggy

from lmkit.errors import PluginError

_OURS = (
    "<frozen ",
    *(str(Path(file).parents[0]) for file in (importlib.__file__, pluggy.__file__)),
)
_OURS += (str(Path(__file__).parents[1]),)


def reason(error: BaseException) -> str:
    """Return what went wrong: the error's kind and the first line of its text.

    >>> reason(ImportError("no module named 'torch'"))
    "ImportError: no module named 'torch'"
    """
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def place(error: BaseException, home: str | None) -> str | None:
    """Return the `file:line` where a plugin fails, or None where no line of it is to blame.

    Args:
        error: what was raised.
        home: the plugin's file, if it is known. A line of its own tells more than one of a package that
            it imports.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OURS)
    ]
    own = [(file, line) for file, line in frames if home and within(file, home)]
    file, line = [("", 0), *frames, *own][-1]
    return f"{file}:{line}" if file else None


def traced(error: BaseException) -> str:
    """Return the traceback of an error without lmkit's own lines and those of the import system."""
    told = traceback.TracebackException.from_exception(error)
    kept = [frame for frame in told.stack if not frame.filename.startswith(_OURS)]
    told.stack = traceback.StackSummary.from_list(kept)
    return "".join(told.format(chain=False)).rstrip()


def within(file: str, home: str) -> bool:
    """Say whether a file is a plugin's own: the module that is its home, or a part of its package."""
    return file == home or (
        Path(home).name == "__init__.py" and Path(home).parent in Path(file).parents
    )
