"""What the engine needs of those who compute, and what they need of it.

Requests of one kind share a lane. The engine offers it those that wait, lets it take a step, and drops
from it those that nobody wants any more; the lane tells what came of each in the engine's book.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Protocol

from lmkit.batching.limits import Counts
from lmkit.batching.scores import TokenScore, token_score
from lmkit.batching.tickets import Ticket
from lmkit.decoding import Answer
from lmkit.runtime.generator import Generator
from lmkit.runtime.rows import Row


class Lane(Protocol):
    """Requests of one kind, which are computed together. One thread uses it."""

    @property
    def tickets(self) -> Iterable[Ticket]:
        """Those that are in it, in any order."""

    @property
    def n_rows(self) -> int:
        """How many of the engine's rows they take."""

    @property
    def kv_bytes(self) -> int:
        """The memory that they take for keys and values."""

    def offer(self, ticket: Ticket, kv_bytes: int) -> bool:
        """Take a request in, if there is room, and say so.

        Args:
            ticket: the request.
            kv_bytes: the most memory that the lane may take, with this request.
        """

    def advance(self, n_waiting: int) -> None:
        """Take a step; errors that are one request's alone end that one.

        Args:
            n_waiting: how many requests are waiting for a row.
        """

    def drop(self, ticket: Ticket) -> None:
        """Let go of a request that is done; its room is free from then on."""

    def clear(self) -> None:
        """Let go of all requests, and of all memory."""


class Book:
    """What came of requests: the engine's figures, and whom to tell.

    Attributes:
        counts: the figures.
        news: the tickets that have something new, in order.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.news: dict[Ticket, None] = {}
        self.seconds = 0.0  # that an answer had a row for, of late

    def wrote(self, ticket: Ticket, text: str, token_id: int, score: TokenScore | None) -> None:
        """Add a token to an answer."""
        ticket.push(text, token_id, score)
        self.counts.completion_tokens += 1
        self.news[ticket] = None

    def answered(self, ticket: Ticket, answer: Answer, text: str = "") -> None:
        """Give a whole answer.

        Args:
            ticket: whose.
            answer: what was written.
            text: what was not shown of it yet.
        """
        ticket.end(answer, text=text)
        self.counts.finished += 1
        self.news[ticket] = None
        if ticket.started_at is not None and ticket.finished_at is not None:
            took = ticket.finished_at - ticket.started_at
            self.seconds += (took - self.seconds) / min(self.counts.finished, 16)

    def failed(self, ticket: Ticket, error: Exception) -> None:
        """Say why there is no answer.

        Args:
            ticket: whose.
            error: no other ticket's: where it is raised, it takes note of that place.
        """
        ticket.end(error=error)
        self.counts.failed += 1
        self.news[ticket] = None

    def all_failed(self, tickets: Iterable[Ticket], error: Exception) -> None:
        """Say of several requests that the same has gone wrong: each ticket gets an error of its own."""
        for ticket in tickets:
            try:
                own = copy.copy(error)
            except Exception:  # of a class that cannot be made of its arguments
                own = error
            self.failed(ticket, own)

    def cancelled(self, ticket: Ticket, error: Exception) -> None:
        """End a request that nobody wants any more."""
        ticket.end(error=error)
        self.counts.cancelled += 1
        self.news[ticket] = None


class Line(Row):
    """An answer that is written for a ticket.

    Whatever goes wrong with one token is this answer's own failure, and no other's.

    Attributes:
        ticket: whose answer it is.
        slot: its row in the buffers, where it has one of its own.
        n_read: how many tokens of its prompt were read, or found as read.
        n_found: how many of them were found.
    """

    def __init__(self, *, ticket: Ticket, book: Book, model: Generator, **row: Any) -> None:
        super().__init__(**row)
        self.ticket = ticket
        self.slot = -1
        self.n_read = 0
        self.n_found = 0
        self._book = book
        self._model = model

    @property
    def is_reading(self) -> bool:
        """Whether some of its prompt is yet to be read."""
        return self.n_read < len(self.prompt)

    def accept(self, logits: Any, stop_ids: frozenset[int]) -> None:
        """Choose the next token from the logits, float32 [V], and tell it."""
        n_top = self.ticket.request.n_logprobs
        score = None
        try:
            super().accept(logits, stop_ids)
            token = self.token_ids[-1]
            if n_top is not None:
                score = token_score(logits, token, n_top, self._model.tokenizer)
        except Exception as error:
            self.fail(error)
            return
        self._book.wrote(self.ticket, self.take(), token, score)

    def fail(self, error: Exception) -> None:
        """End it by an error."""
        self.reason = "error"
        self._book.failed(self.ticket, error)

    def finish(self) -> None:
        """Give the whole answer of a line that has ended by itself."""
        if self.ticket.done:
            return
        try:
            answer = self._model.answer(self)
        except Exception as error:
            self._book.failed(self.ticket, error)
        else:
            self._book.answered(self.ticket, answer, self.take())


def line_of(ticket: Ticket, book: Book, model: Generator) -> Line:
    """Return the answer that a ticket asks for, yet to be written."""
    request = ticket.request
    assert request.generation is not None

    def make(**row: Any) -> Line:
        return Line(ticket=ticket, book=book, model=model, **row)

    return model.row(
        request.prompt,
        request.generation,
        limit=request.limit,
        penalties=request.penalties,
        make=make,
    )
