"""Ask: a record is prepared, waits for its turn, and its answer is awaited or comes in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TypeVar

import attrs
from starlette.types import Receive

from lmkit.batching import Engine, Request, Ticket, TokenScore, Update
from lmkit.decoding import Answer
from lmkit.serve.news import Bell, News

T = TypeVar("T")

# Prompts are encoded beside the event loop: a long one takes milliseconds, in which others stream.
_PREPARERS = 2


class HungUp(Exception):
    """The client went away, so there is nobody to answer."""


class Desk:
    """Where requests are handed in.

    Args:
        news: what the engines tell their steps to.
    """

    def __init__(self, news: News) -> None:
        self._news = news
        self._preparers = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="lmkit-prepare")

    async def prepare(self, make: Callable[[], T]) -> T:
        """Return what a call makes that takes its time, such as a prompt's ids."""
        return await asyncio.get_running_loop().run_in_executor(self._preparers, make)

    def submit(
        self, engine: Engine, requests: Sequence[Request], receive: Receive, *, streams: bool
    ) -> Bell:
        """Hand requests in, all of them or none.

        Args:
            engine: what answers them.
            requests: what `Engine.prepare` made.
            receive: the connection, whose end cancels them.
            streams: whether what comes is wanted at each step.
        Raises:
            Busy: there is no room for them all.
        """
        tickets: list[Ticket] = []
        try:
            for request in requests:
                tickets.append(engine.submit(request))
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
        bell = self._news.listen(tickets, streams=streams)
        bell.watch(receive)
        return bell

    def close(self) -> None:
        """Prepare no more."""
        self._preparers.shutdown(wait=False, cancel_futures=True)


@attrs.frozen
class Finished:
    """A request that was answered.

    Attributes:
        answer: the whole answer.
        scores: those of its tokens, where they were asked for.
    """

    answer: Answer
    scores: tuple[TokenScore, ...]


Note = Callable[[Ticket], None]


async def updates(bell: Bell, note: Note) -> AsyncGenerator[tuple[int, Update], None]:
    """Yield what comes of each of a bell's tickets, with its place among them, until all are done.

    Whoever stops early, or is cancelled, cancels what is still being written.

    Args:
        bell: what is waited for.
        note: told of each ticket that is done.
    Raises:
        HungUp: the client went away.
        LmkitError: one of them failed; the others are cancelled.
    """
    writing = dict(enumerate(bell.tickets))
    try:
        while writing:
            bell.hush()
            for place, ticket in list(writing.items()):
                if bell.gone:
                    raise HungUp
                update = ticket.take()
                if update.done:
                    del writing[place]
                    note(ticket)
                if update.text or update.token_ids or update.done:
                    yield place, update
                if update.done and ticket.error is not None:
                    raise ticket.error
            if writing:
                await bell.wait()
    finally:
        bell.close()


async def answers(bell: Bell, note: Note) -> list[Finished]:
    """Return what a bell's tickets became, in their order; arguments and errors are `updates`'."""
    scores: list[tuple[TokenScore, ...]] = [()] * len(bell.tickets)
    async with aclosing(updates(bell, note)) as coming:
        async for place, update in coming:
            scores[place] += update.scores
    found = []
    for ticket, own in zip(bell.tickets, scores, strict=True):
        assert ticket.answer is not None  # else `updates` would have raised its error
        found.append(Finished(ticket.answer, own))
    return found
