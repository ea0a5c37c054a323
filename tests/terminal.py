"""A program in a terminal of its own, for tests that sit before it as its user does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

LONGEST = 60  # seconds that a text may take to appear, on a slow and busy machine
PATIENCE = 3


class Terminal:
    """A program's terminal.

    Attributes:
        shown: everything that appeared in it.
    """

    def __init__(self, screen: int, program: subprocess.Popen[bytes]) -> None:
        self.shown = ""
        self._raw = b""
        self._seen = 0
        self._screen = screen
        self._program = program

    def type(self, text: str) -> None:
        """Press keys; `\\x03` is Ctrl-C and `\\x04` Ctrl-D."""
        os.write(self._screen, text.encode())

    def expect(self, text: str) -> str:
        """Wait until a text appears behind what was waited for before; return what came up to it."""
        ends = time.monotonic() + LONGEST
        while (place := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < ends, f"{text!r} never came behind:\n{self.shown}"
            assert self._more(), f"the program ended before {text!r}:\n{self.shown}"
        before, self._seen = self.shown[self._seen : place], place + len(text)
        return before

    def interrupt(self, text: str = "") -> None:
        """Press Ctrl-C while a line is awaited, until a text appears, or the program ends.

        Once is enough for whoever sits there. Python misses it in the instant before it begins to wait
        for a key, and sees it with the next one.
        """
        for _ in range(LONGEST // PATIENCE):
            self.type("\x03")
            ends = time.monotonic() + PATIENCE
            while time.monotonic() < ends:
                if not self._more() or (text and text in self.shown[self._seen :]):
                    return
        raise AssertionError(f"Ctrl-C did nothing:\n{self.shown}")

    def end(self) -> int:
        """Wait until the program ends; return its exit code."""
        ends = time.monotonic() + LONGEST
        while self._more():
            assert time.monotonic() < ends, f"the program never ended:\n{self.shown}"
        return self._program.wait(LONGEST)

    def _more(self) -> bool:
        if not select.select([self._screen], [], [], 0.1)[0]:
            return True
        try:
            part = os.read(self._screen, 1 << 16)
        except OSError:  # nobody holds the other side any more
            return False
        self._raw += part
        self.shown = self._raw.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(part)


@contextlib.contextmanager
def terminal(*args: str | Path, **environ: str) -> Iterator[Terminal]:
    """Run Python with some arguments in a terminal, and end it if it has not ended."""
    screen, keys = pty.openpty()

    def sit_down() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C there interrupts it
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it

    settings = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8", **environ}
    program = subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdin=keys,
        stdout=keys,
        stderr=keys,
        start_new_session=True,
        preexec_fn=sit_down,
        env={**os.environ, **settings},
    )
    os.close(keys)
    try:
        yield Terminal(screen, program)
    finally:
        program.kill()
        program.wait()
        os.close(screen)
