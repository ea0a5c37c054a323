"""Memory that requests take and hand back: what is big is asked of the system once.

A request's keys and values are tens of megabytes. Fresh memory of that size is cleared by the system
page by page as it is first touched, and given up again a moment later; so what a request hands back
is kept for the next one, up to a bound.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

from lmkit.answering.logits import Logits

IDLE_BYTES = 1 << 28  # what is kept for the next requests; more than that goes back to the system

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class Pool:
    """Blocks of float32 with one owner each; safe to use from several threads.

    It keeps no more blocks than were in use at the same time, and no more than `most_bytes`.

    Args:
        most_bytes: the most that is kept while nobody uses it.
    """

    def __init__(self, most_bytes: int = IDLE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.used_bytes = 0  # by owners, at this moment
        self._idle: list[Logits] = []
        # An owner that is garbage-collected hands its block back at whatever moment that is: in the
        # midst of a `take` of the same thread too. So the lock lets its holder in again, and no line
        # below relies on the list being what the line before found.
        self._lock = threading.RLock()

    @property
    def idle_bytes(self) -> int:
        """What is kept for the next owners."""
        return sum(block.nbytes for block in tuple(self._idle))

    def take(self, n_floats: int, owner: object) -> Lease:
        """Return room for so many numbers; what is in it may be anything.

        Args:
            n_floats: how many.
            owner: who uses it; when that is garbage-collected, the room is handed back.
        """
        with self._lock:
            block = self._pick(n_floats)
            if block is None:
                block = _aligned(n_floats)
            self.used_bytes += block.nbytes
            return Lease(self, block, n_floats, owner)

    def clear(self) -> None:
        """Give what nobody uses back to the system."""
        with self._lock:
            self._idle = []

    def _pick(self, n_floats: int) -> Logits | None:
        """Take the smallest idle block that is large enough, if one is."""
        idle = sorted(self._idle, key=len)
        for block in idle:
            if len(block) >= n_floats:
                return block if self._remove(block) else None
        if idle:  # too small for now: a larger one will come back in its place
            self._remove(idle[-1])
        return None

    def _remove(self, block: Logits) -> bool:
        before = len(self._idle)
        self._idle = [other for other in self._idle if other is not block]
        return len(self._idle) < before

    def _put(self, block: Logits) -> None:
        with self._lock:
            self.used_bytes -= block.nbytes
            self._idle.append(block)
            while self._idle and self.idle_bytes > self.most_bytes:
                self._idle.pop(0)


class Lease:
    """Room in a block, until it is released.

    Attributes:
        floats: float32 [N]; not to be looked at any more when it was released.
    """

    def __init__(self, pool: Pool, block: Logits, n_floats: int, owner: object) -> None:
        self.floats = block[:n_floats]
        self._back = weakref.finalize(owner, pool._put, block)
        self._back.atexit = False

    def release(self) -> None:
        """Hand it back; a second call does nothing."""
        self._back()


def _aligned(n_floats: int) -> Logits:
    """Return fresh float32 [N] that begins with a cache line."""
    spare = _ALIGNMENT // 4
    whole: Logits = np.empty(n_floats + spare, dtype=np.float32)
    start = -whole.ctypes.data % _ALIGNMENT // 4
    return whole[start : start + n_floats]
