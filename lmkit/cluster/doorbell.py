"""The doorbell: tells every replica that the server stops, and hears of each when nobody is inside."""

from __future__ import annotations

import asyncio


class Doorbell:
    """An actor of which there is one; replicas wait at it for the end.

    Only those who have heard it count: a replica that was lost before waits for nobody.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._drain = 0.0
        self._listening: set[str] = set()
        self._emptying: set[str] = set()

    async def ring(self, drain: float) -> None:
        """Let nothing more in, and give what is inside so many seconds."""
        self._drain = drain
        self._rung.set()

    async def wait(self, replica: str) -> float:
        """Return when the bell rings: for how many seconds what is inside a replica may go on."""
        self._listening.add(replica)
        await self._rung.wait()
        return self._drain

    async def heard(self, replica: str) -> None:
        """Hear that a replica lets nothing more in."""
        self._listening.discard(replica)
        self._emptying.add(replica)

    async def left(self, replica: str) -> None:
        """Hear that nobody is inside a replica any more."""
        self._emptying.discard(replica)

    async def deaf(self) -> int:
        """Return how many replicas have come to listen and not heard: late, or lost before."""
        return len(self._listening)

    async def emptying(self) -> int:
        """Return in how many replicas somebody is still inside."""
        return len(self._emptying)
