"""Slots: text of a causal model, where every request joins and leaves at any token.

A request has a row of the buffers for itself. Its prompt is read straight into it, some tokens at a
time between the steps of those that write, and then it writes along with them. Who leaves makes room
for the next; rows that stay empty are closed up. Rows and places come by need, as others have gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from lmkit.answering.logits import Logits
from lmkit.batching.lanes import Book, Line, line_of
from lmkit.batching.tickets import Ticket
from lmkit.errors import ModelError
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.causal_state import CHUNK, CausalState, n_next
from lmkit.runtime.generator import Generator

_ROUND = 64  # places: capacities are multiples of it, so that few requests need a new one
_SHRINKS = 0.25  # the share of rows that may stand empty before others move in


class Slots:
    """The lane of causal text; see `Lane`.

    Args:
        model: what answers.
        book: where it is told.
        prefill_chunk: how many tokens of prompts are read between two steps.
    """

    def __init__(self, model: Generator, book: Book, *, prefill_chunk: int) -> None:
        assert isinstance(model.session, CausalSession)
        self._model = model
        self._session = model.session
        self._book = book
        self._chunk = prefill_chunk
        self._lines: list[Line | None] = []  # by row of the buffers; the last one is none
        self._reading: deque[Line] = deque()
        self._state: CausalState | None = None
        self._size = (0, 0)  # rows and places that there are, or will be at the next step

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Those that are in it."""
        return [line.ticket for line in self._lines if line is not None]

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return sum(line is not None for line in self._lines)

    @property
    def kv_bytes(self) -> int:
        """The memory of all rows, whether they are filled or not."""
        return self._bytes(*self._size)

    def _bytes(self, n_rows: int, capacity: int) -> int:
        return 4 * n_rows * self._session.row_size(capacity, 0) if n_rows else 0

    def offer(self, ticket: Ticket, kv_bytes: int) -> bool:
        """Take a request in, if a row can be found or made for it; see `Lane`."""
        request = ticket.request
        place = self._lines.index(None) if None in self._lines else len(self._lines)
        size = self._fitting(place + 1, len(request.prompt) + request.limit, kv_bytes)
        if size is None:
            return False
        self._size = size
        line = line_of(ticket, self._book, self._model)
        line.slot = place
        if place == len(self._lines):
            self._lines.append(line)
        else:
            self._lines[place] = line
        self._reading.append(line)
        ticket.start()
        return True

    def _fitting(self, n_rows: int, capacity: int, most: int) -> tuple[int, int] | None:
        """Return the rows and places that hold so many, with some more if that fits; None if not."""
        have_rows, have_places = self._size
        if n_rows <= have_rows and capacity <= have_places:
            return self._size
        n_rows, least = max(n_rows, have_rows), max(capacity, have_places)
        rounded = -(-least // _ROUND) * _ROUND
        doubled = n_rows if n_rows == have_rows else max(n_rows, 2 * have_rows)
        for size in ((doubled, rounded), (n_rows, rounded), (n_rows, least)):
            if self._bytes(*size) <= most or not self._lines:
                return size
        return None

    def advance(self, n_waiting: int) -> None:
        """Read some of the prompts, and write a token of each answer; see `Lane`."""
        state = self._ready()
        self._read(state)
        if any(line is not None and not line.is_reading for line in self._lines):
            self._write(state)
        self._settle(state, n_waiting)

    def _ready(self) -> CausalState:
        """Return the buffers, with as many rows and places as are needed now."""
        if self._state is None:
            self._state = CausalState(self._session, *self._size)
            for row in range(self._size[0]):
                self._state.rest(row)
        elif self._state.size != self._size:
            self._state.resize(*self._size)
        return self._state

    def _read(self, state: CausalState) -> None:
        """Read as many tokens of the prompts, first come first read, as a step leaves time for."""
        writes = len(self._reading) < self.n_rows
        left = self._chunk if writes else max(CHUNK, self._chunk)
        while self._reading and left > 1:
            line = self._reading[0]
            try:
                left -= self._read_part(state, line, left)
            except Exception as error:
                line.fail(error)
                self._free(state, line)
                continue
            if not line.is_reading:
                self._reading.popleft()
                if line.reason is not None:
                    self._end(state, line)

    def _read_part(self, state: CausalState, line: Line, most: int) -> int:
        """Read some of a prompt, and choose the first token behind its end; return how many."""
        row, counts = line.slot, self._book.counts
        if line.n_read == 0:
            state.restart(row)
            line.n_read = line.n_found = state.take_known(row, line.prompt)
            counts.prompt_tokens += len(line.prompt)
            counts.prefix_tokens += line.n_found
        count = n_next(len(line.prompt) - line.n_read, most)
        logits = state.extend(row, line.prompt[line.n_read : line.n_read + count], last=1)
        line.n_read += count
        state.rest(row)
        if not line.is_reading:
            line.accept(logits[-1], self._model.stop_ids)
        return count

    def _write(self, state: CausalState) -> None:
        """Write one token of each answer whose prompt is read."""
        tokens = [
            None if line is None or line.is_reading else line.token_ids[-1] for line in self._lines
        ]
        try:
            logits = state.step(tokens)
        except ModelError:
            self._write_alone(state, tokens)
            return
        self._book.counts.steps += 1
        for line, token, scores in zip(tuple(self._lines), tokens, logits, strict=True):
            if line is not None and token is not None:
                self._accept(state, line, scores)

    def _write_alone(self, state: CausalState, tokens: Sequence[int | None]) -> None:
        """Write one token of each answer by itself: what fails together may be one answer's fault."""
        for line, token in zip(tuple(self._lines), tokens, strict=True):
            if line is None or token is None:
                continue
            try:
                logits = state.step_again(line.slot)
            except ModelError as error:
                line.fail(error)
                self._free(state, line)
            else:
                self._accept(state, line, logits)

    def _accept(self, state: CausalState, line: Line, logits: Logits) -> None:
        line.accept(logits, self._model.stop_ids)
        if line.reason is not None:
            self._end(state, line)

    def _end(self, state: CausalState, line: Line) -> None:
        """Give a line's answer, and its row to the next."""
        line.finish()
        if line.reason != "error":
            state.keep(line.slot)
        self._free(state, line)

    def _free(self, state: CausalState, line: Line) -> None:
        if line in self._reading:
            self._reading.remove(line)
        self._lines[line.slot] = None
        while self._lines and self._lines[-1] is None:
            self._lines.pop()
        state.restart(line.slot)
        state.rest(line.slot)

    def _settle(self, state: CausalState, n_waiting: int) -> None:
        """Close up rows that stand empty, unless others are about to come; hand memory back."""
        if not self._lines:
            self.clear()
            return
        if n_waiting:
            return
        n_empty = self._lines.count(None)
        if n_empty < len(self._lines) * _SHRINKS:
            return
        while None in self._lines:
            place, line = self._lines.index(None), self._lines.pop()
            if line is not None:
                state.move(line.slot, place)
                state.restart(line.slot)
                state.rest(line.slot)
                self._lines[place] = line
                line.slot = place
            while self._lines and self._lines[-1] is None:
                self._lines.pop()

    def drop(self, ticket: Ticket) -> None:
        """Let go of a request; see `Lane`."""
        for line in self._lines:
            if line is not None and line.ticket is ticket:
                line.reason = "dropped"
                if self._state is None:
                    self._lines[line.slot] = None
                    self._reading.remove(line)
                else:
                    self._free(self._state, line)
        if not any(self._lines):
            self.clear()

    def clear(self) -> None:
        """Let go of all requests, and of all memory."""
        self._lines.clear()
        self._reading.clear()
        self._size = (0, 0)
        if self._state is not None:
            self._state.close()
            self._state = None
