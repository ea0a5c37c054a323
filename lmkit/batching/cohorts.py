"""Cohorts: text of models whose rows begin together, such as an encoder-decoder's.

Who waits begins together, and is written together to the end. Few cohorts run at a time, each a step in
turn, so that a newcomer waits for the next cohort and not for the end of all; the fewer, the more rows
each has, and a step of many rows costs little more than one of few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from lmkit.batching.lanes import Book, Line, line_of
from lmkit.batching.limits import Limits
from lmkit.batching.requests import Request
from lmkit.batching.tickets import Ticket
from lmkit.runtime.beams import searching
from lmkit.runtime.generator import Generator
from lmkit.runtime.rows import write

MOST_COHORTS = 2  # that run at a time


class Cohort:
    """Lines that began together.

    Args:
        lines: the answers.
        model: what writes them.
        book: where it is told.

    Attributes:
        lines: those that are still written.
        kv_bytes: the memory that it takes to its end, however many have ended before.
    """

    def __init__(self, lines: Sequence[Line], model: Generator, book: Book) -> None:
        self.lines = list(lines)
        self.kv_bytes = _bytes([line.ticket.request for line in lines], model)
        self._model = model
        self._book = book
        self._steps = self._written()

    def _written(self) -> Iterator[None]:
        if self.lines[0].beams is None:
            stop_ids = self._model.stop_ids
            return write(self._model.writer, self.lines, stop_ids, at_once=len(self.lines))
        searches = [line.beams for line in self.lines if line.beams is not None]
        return searching(self._model.writer, [line.prompt for line in self.lines], searches)

    def advance(self) -> list[Line]:
        """Write a token of each; return whom that failed for before a first token, to be tried alone."""
        try:
            next(self._steps)
            self._book.counts.steps += 1
        except StopIteration:
            pass
        except Exception as error:
            if len(self.lines) > 1 and not any(line.token_ids for line in self.lines):
                again, self.lines = self.lines, []
                return again
            self._book.all_failed([line.ticket for line in self.lines], error)
            self.lines = []
        self._take_over()
        for line in self.lines:
            if line.reason is not None:
                line.finish()
        self.lines = [line for line in self.lines if line.reason is None]
        if not self.lines:
            self.close()
        return []

    def _take_over(self) -> None:
        """Write what those searches found that are at their end."""
        for line in self.lines:
            if line.beams is not None and line.beams.is_done:
                try:
                    line.take_over(line.beams.best, self._model.stop_ids)
                except Exception as error:
                    line.fail(error)
                    continue
                for place, token in enumerate(line.token_ids):
                    text = line.take() if place == len(line.token_ids) - 1 else ""
                    self._book.wrote(line.ticket, text, token, None)

    def close(self) -> None:
        """Hand the memory back."""
        closing = getattr(self._steps, "close", None)
        if closing is not None:
            closing()


class Cohorts:
    """The lane of text whose rows begin together; see `Lane`.

    Args:
        model: what answers.
        book: where it is told.
        limits: how much it takes on.
    """

    def __init__(self, model: Generator, book: Book, limits: Limits) -> None:
        self._model = model
        self._book = book
        self._most_rows = limits.max_rows
        self._next: list[Line] = []
        self._alone: list[Line] = []  # each of them is a cohort of its own
        self._running: list[Cohort] = []

    @property
    def _lines(self) -> list[Line]:
        running = chain.from_iterable(cohort.lines for cohort in self._running)
        return [*self._next, *self._alone, *running]

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Those that are in it."""
        return [line.ticket for line in self._lines]

    @property
    def n_rows(self) -> int:
        """How many texts are written: of a search, all of its beams."""
        return sum(line.ticket.request.n_rows for line in self._lines)

    @property
    def kv_bytes(self) -> int:
        """The memory that they take, or will."""
        return self._begun_bytes + _bytes([line.ticket.request for line in self._next], self._model)

    @property
    def _begun_bytes(self) -> int:
        """The memory of all that are no longer to begin together."""
        alone = sum(line.ticket.request.kv_bytes for line in self._alone)
        return alone + sum(cohort.kv_bytes for cohort in self._running)

    def offer(self, ticket: Ticket, kv_bytes: int) -> bool:
        """Take a request into the next cohort, if there may be one; see `Lane`."""
        if len(self._running) + len(self._alone) >= MOST_COHORTS:
            return False
        if self._running and not self._next and 2 * self.n_rows > self._most_rows:
            return False  # a cohort of few is hardly faster than one of many
        together = [*(line.ticket.request for line in self._next), ticket.request]
        if together[0].n_rows != ticket.request.n_rows:
            return False
        if self._lines and self._begun_bytes + _bytes(together, self._model) > kv_bytes:
            return False
        self._next.append(line_of(ticket, self._book, self._model))
        ticket.start()
        return True

    def advance(self, n_waiting: int) -> None:
        """Begin what has come, and write a token of each answer; see `Lane`."""
        if self._next:
            counts = self._book.counts
            counts.prompt_tokens += sum(len(line.prompt) for line in self._next)
            self._running.append(Cohort(self._next, self._model, self._book))
            self._next = []
        if self._alone and len(self._running) < MOST_COHORTS:
            self._running.append(Cohort([self._alone.pop(0)], self._model, self._book))
        for cohort in self._running:
            # With nothing in them of what the others' failure has left half done.
            again = [line.ticket for line in cohort.advance()]
            self._alone += [line_of(ticket, self._book, self._model) for ticket in again]
        self._running = [cohort for cohort in self._running if cohort.lines]

    def drop(self, ticket: Ticket) -> None:
        """Let go of a request; its row leaves with the next step. See `Lane`."""
        for line in self._lines:
            if line.ticket is ticket:
                line.reason = "dropped"
                if line.beams is not None:
                    line.beams.is_done = True
        self._next = [line for line in self._next if line.reason is None]
        self._alone = [line for line in self._alone if line.reason is None]
        for cohort in self._running:
            cohort.lines = [line for line in cohort.lines if line.reason is None]
            if not cohort.lines:
                cohort.close()
        self._running = [cohort for cohort in self._running if cohort.lines]

    def clear(self) -> None:
        """Let go of all requests, and of all memory."""
        for cohort in self._running:
            cohort.close()
        self._next, self._alone, self._running = [], [], []


def _bytes(requests: Sequence[Request], model: Generator) -> int:
    """Return the memory of requests that are written together: each has room for the longest's parts."""
    if not requests:
        return 0
    n_prompt = max(request.prompt_tokens for request in requests)
    limit = max(request.limit for request in requests)
    n_rows = sum(request.n_rows for request in requests)
    return 4 * n_rows * model.writer.row_size(n_prompt, limit)
