r"""Read what is typed, line by line, from a terminal or a pipe; and messages of several lines.

A line that ends in a backslash goes on in the next one. In a terminal lines can be edited and found
again, where Python has readline, and text that is pasted with its line breaks is one message.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from lmkit.errors import LmkitError, RecordError

PROMPT = "> "
MORE = ". "  # before a line that goes on with the one above
PASTE_ENDS = "/end"


class Lines(Protocol):
    """Where lines come from."""

    def read(self, prompt: str = PROMPT, prefill: str = "") -> str | None:
        """Return the next line without its end, or None if there are no more.

        Args:
            prompt: what stands before it in a terminal.
            prefill: what it holds already, for whom it is typed to change.
        """


class PipeLines:
    """Lines of a pipe or a file: nothing is shown.

    Args:
        source: where the bytes come from; UTF-8.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._count = 0

    def read(self, prompt: str = PROMPT, prefill: str = "") -> str | None:
        """Return the next line; raise `RecordError` if it is no UTF-8."""
        raw = self._source.readline()
        if not raw:
            return None
        self._count += 1
        try:
            return raw.decode("utf-8-sig" if self._count == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RecordError(
                f"standard input:{self._count}",
                f"byte {error.start + 1} is not UTF-8; convert it, as with iconv -t UTF-8",
            ) from error


class TerminalLines:
    """Lines that somebody types.

    Args:
        history: a file that remembers what was typed for later chats; None remembers it for this one.
    """

    def __init__(self, history: Path | None = None) -> None:
        self._prefill = ""
        try:
            import readline
        except ImportError:  # not every Python has it; lines are read without
            self._readline = None
            return
        self._readline = readline
        readline.clear_history()
        readline.set_auto_history(True)
        if "libedit" not in (readline.__doc__ or ""):
            # Python turns it off for its own prompt, to which a pasted line break means another thing.
            readline.parse_and_bind("set enable-bracketed-paste on")
        if history is not None:
            self._remember(history)

    def read(self, prompt: str = PROMPT, prefill: str = "") -> str | None:
        """Return the next line, or None at Ctrl-D."""
        if not sys.stdout.isatty():  # what is typed is echoed, and only answers go to that file
            sys.stderr.write(prompt)
            sys.stderr.flush()
            prompt = ""
        try:
            with self._prefilled(prefill):
                line = input(prompt)
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            raise LmkitError("what was typed is not UTF-8; is the terminal set to it?") from error
        if any("\ud800" <= mark <= "\udfff" for mark in line):
            raise LmkitError("what was typed is not UTF-8; is the terminal set to it?")
        return line.replace("\r\n", "\n").replace("\r", "\n")

    @contextlib.contextmanager
    def _prefilled(self, text: str) -> Iterator[None]:
        readline = self._readline
        if readline is None or not text:
            yield
            return
        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            yield
        finally:
            readline.set_startup_hook(None)

    def _remember(self, file: Path) -> None:
        """Read the file, and write it when the program ends."""
        import atexit

        readline = self._readline
        assert readline is not None
        try:
            file.touch(mode=0o600)  # what was said is for its owner
            if file.stat().st_size:  # libedit refuses an empty one
                readline.read_history_file(file)
        except OSError as error:
            raise LmkitError(
                f"the history '{file}' cannot be read: {error.strerror or error}"
            ) from error
        readline.set_history_length(1000)

        def write() -> None:
            with contextlib.suppress(OSError):
                readline.write_history_file(file)

        atexit.register(write)


def read_message(lines: Lines, prefill: str = "") -> str | None:
    r"""Return the next message: a line, with those that a backslash at its end adds to it.

    Two backslashes at the end are one, and the line ends there.
    """
    parts: list[str] = []
    while True:
        line = lines.read(MORE if parts else PROMPT, "" if parts else prefill)
        if line is None:
            return "\n".join(parts) if parts else None
        if line.endswith("\\\\") or not line.endswith("\\"):
            parts.append(line[:-1] if line.endswith("\\\\") else line)
            return "\n".join(parts)
        parts.append(line[:-1])


def read_paste(lines: Lines) -> str:
    """Return all lines up to `/end`, or to the last one."""
    parts: list[str] = []
    while (line := lines.read(MORE)) is not None and line.strip() != PASTE_ENDS:
        parts.append(line)
    return "\n".join(parts)
