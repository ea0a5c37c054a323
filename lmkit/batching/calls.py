"""Calls: labels and masks, of which several requests are one pass of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmkit.answering.choosing import chosen
from lmkit.batching.lanes import Book
from lmkit.batching.requests import Request
from lmkit.batching.tickets import Ticket
from lmkit.decoding import Answer
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller

AT_ONCE = 16  # requests of one pass: more would let each wait longer for little


class Calls:
    """The lane of what is answered by a single pass; see `Lane`.

    Args:
        answer: answers requests, in order.
        book: where it is told.
    """

    def __init__(self, answer: Callable[[Sequence[Request]], list[Answer]], book: Book) -> None:
        self._answer = answer
        self._book = book
        self._next: list[Ticket] = []

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Those that are in it."""
        return self._next

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self._next)

    @property
    def kv_bytes(self) -> int:
        """None: what a pass needs it hands back at its end."""
        return 0

    def offer(self, ticket: Ticket, kv_bytes: int) -> bool:
        """Take a request into the next pass; see `Lane`."""
        if len(self._next) >= AT_ONCE:
            return False
        self._next.append(ticket)
        ticket.start()
        return True

    def advance(self, n_waiting: int) -> None:
        """Answer those that have come; if that fails, each by itself. See `Lane`."""
        tickets, self._next = self._next, []
        counts = self._book.counts
        counts.prompt_tokens += sum(ticket.request.prompt_tokens for ticket in tickets)
        try:
            self._tell(tickets)
        except Exception as error:
            if len(tickets) == 1:
                self._book.failed(tickets[0], error)
                return
            for ticket in tickets:
                try:
                    self._tell([ticket])
                except Exception as own:
                    self._book.failed(ticket, own)

    def _tell(self, tickets: Sequence[Ticket]) -> None:
        answers = self._answer([ticket.request for ticket in tickets])
        self._book.counts.steps += 1
        for ticket, answer in zip(tickets, answers, strict=True):
            self._book.counts.completion_tokens += answer.usage.completion_tokens
            self._book.answered(ticket, answer, answer.text)

    def drop(self, ticket: Ticket) -> None:
        """Let go of a request; see `Lane`."""
        self._next = [other for other in self._next if other is not ticket]

    def clear(self) -> None:
        """Let go of all requests."""
        self._next = []


def choices(model: Generator) -> Callable[[Sequence[Request]], list[Answer]]:
    """Return what answers requests with a label each."""

    def answer(requests: Sequence[Request]) -> list[Answer]:
        ready = [request.choice for request in requests if request.choice is not None]
        return chosen(model, ready, batch_size=len(ready))

    return answer


def fills(model: MaskFiller) -> Callable[[Sequence[Request]], list[Answer]]:
    """Return what fills the masks of requests."""
    return lambda requests: model.filled([request.prompt for request in requests])
