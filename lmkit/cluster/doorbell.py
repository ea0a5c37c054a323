"""The doorbell: tells every replica that the server stops, and hears of each when nobody is inside."""

from __future__ import annotations

import asyncio


class Doorbell:
    """An actor of which there is one; replicas wait at it for the end."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._drain = 0.0
        self._waiting: set[str] = set()

    async def ring(self, drain: float) -> None:
        """Let nothing more in, and give what is inside so many seconds."""
        self._drain = drain
        self._rung.set()

    async def wait(self, replica: str) -> float:
        """Return when the bell rings: for how many seconds what is inside may go on."""
        self._waiting.add(replica)
        await self._rung.wait()
        return self._drain

    async def left(self, replica: str) -> None:
        """Hear that nobody is inside a replica, or that it ends for another reason."""
        self._waiting.discard(replica)

    async def inside(self) -> int:
        """Return how many replicas have not said so."""
        return len(self._waiting)
