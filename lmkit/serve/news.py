"""News: what an engine's thread has written reaches the coroutines that wait for it.

The engine tells once per step, for all its requests together, so there is one call into the event
loop per step, however many clients listen. A coroutine that is slower than the model, since its client
reads slowly, finds all that came in between in one piece.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence

from starlette.types import Receive

from lmkit.batching import Ticket


class News:
    """Wakes those who wait for tickets; an engine calls it from its own thread."""

    def __init__(self) -> None:
        self._bells: dict[int, Bell] = {}
        self._lock = threading.Lock()

    def __call__(self, tickets: Sequence[Ticket]) -> None:
        """Wake whoever waits for one of these tickets."""
        with self._lock:
            bells = {
                bell
                for ticket in tickets
                if (bell := self._bells.get(id(ticket))) and (bell.streams or ticket.done)
            }
        by_loop: dict[asyncio.AbstractEventLoop, list[Bell]] = {}
        for bell in bells:
            by_loop.setdefault(bell.loop, []).append(bell)
        for loop, ringing in by_loop.items():
            try:
                loop.call_soon_threadsafe(_ring, ringing)
            except RuntimeError:  # the loop is closed, so nobody waits any more
                continue

    def listen(self, tickets: Iterable[Ticket], *, streams: bool) -> Bell:
        """Return what rings when one of these tickets has something new.

        It rings for what comes after this call. What came before is there to be taken.

        Args:
            tickets: what is being written.
            streams: whether it rings at each step, and not just when a ticket is done.
        """
        bell = Bell(self, tuple(tickets), streams=streams)
        with self._lock:
            self._bells |= {id(ticket): bell for ticket in bell.tickets}
        return bell

    def forget(self, tickets: Iterable[Ticket]) -> None:
        """Ring for these tickets no more."""
        with self._lock:
            for ticket in tickets:
                self._bells.pop(id(ticket), None)


class Bell:
    """What one coroutine waits for: some tickets, and the end of its client's connection.

    Attributes:
        tickets: what it rings for.
        streams: whether it rings at each step, and not just when a ticket is done.
        loop: where it is awaited.
        gone: whether the client hung up.
    """

    def __init__(self, news: News, tickets: tuple[Ticket, ...], *, streams: bool) -> None:
        self.tickets = tickets
        self.streams = streams
        self.loop = asyncio.get_running_loop()
        self.gone = False
        self._news = news
        self._event = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def watch(self, receive: Receive) -> None:
        """Ring when the client hangs up, too; the request's body has been read."""
        self._watching = self.loop.create_task(self._watch(receive))

    def ring(self) -> None:
        """Wake who waits."""
        self._event.set()

    def hush(self) -> None:
        """Begin to listen anew: to be called before what came is taken."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until it has rung since the last `hush`."""
        await self._event.wait()

    def close(self) -> None:
        """Cancel what is still being written and listen no more."""
        if self._watching is not None:
            self._watching.cancel()
        self._news.forget(self.tickets)
        for ticket in self.tickets:
            if not ticket.done:
                ticket.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        for ticket in self.tickets:
            ticket.cancel()
        self.ring()


def _ring(bells: Iterable[Bell]) -> None:
    for bell in bells:
        bell.ring()
