"""Give memory back between the stages of an export, so that none stands on top of another."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def give_back() -> None:
    """Free what only cycles hold, as a trace leaves them, and hand freed memory to the system.

    glibc keeps what was freed for later; elsewhere the second part is left out.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
