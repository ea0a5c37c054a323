"""Slots: text of a causal model, where every request joins and leaves at any token.

A request has a row of the buffers for itself. Its prompt is read straight into it, some tokens at a
time between the steps of those that write, and then it writes along with them. Who leaves makes room
for the next; rows that stay empty are closed up. Rows and places come by need, and go when nobody is
left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from lmkit.answering.logits import Logits
from lmkit.batching.lanes import Book, Line, line_of
from lmkit.batching.limits import Limits
from lmkit.batching.requests import Request
from lmkit.batching.tickets import Ticket
from lmkit.errors import ModelError
from lmkit.runtime import drafting
from lmkit.runtime.buffers import IDLE_BYTES
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.causal_state import CHUNK, CausalState, n_next
from lmkit.runtime.generator import Generator
from lmkit.runtime.prefixes import LEAST

_ROUND = 64  # places: capacities are multiples of it, so that few requests need a new one
# How many times as much is read between two steps where more than one prompt waits. A pass over 128 tokens
# reads more of them a second than one over 64 (SmolLM2-135M, two cores): 1.06x in int4, 1.18x in fp32, 1.20x
# in int8. With 16 clients: 1.00x, 1.12x and 1.03x the tokens, and 0.6 to 0.8 of the time to the first one.
_CROWD = 2
_SHRINKS = 0.25  # the share of rows that may stand empty before others move in

Size: TypeAlias = tuple[int, int]  # rows, and places in each


class Slots:
    """The lane of causal text; see `Lane`.

    Args:
        model: what answers.
        book: where it is told.
        limits: how much it takes on.
    """

    def __init__(self, model: Generator, book: Book, limits: Limits) -> None:
        assert isinstance(model.session, CausalSession)
        self._model = model
        self._session = model.session
        self._book = book
        self._limits = limits
        self._coming: deque[Line] = deque()  # who has no row yet
        self._reading: deque[Line] = deque()  # whose prompt is not read to its end
        self._lines: list[Line | None] = []  # by row of the buffers; the last one is a line
        self._size: Size = (0, 0)  # what the buffers have, or will have at the next step
        self._state: CausalState | None = None
        self._drafts: Iterator[None] | None = None  # what writes for the one who is alone
        self._in_company = False

    @property
    def tickets(self) -> Sequence[Ticket]:
        """Those that are in it."""
        return [line.ticket for line in self._all]

    @property
    def _all(self) -> list[Line]:
        return [*(line for line in self._lines if line is not None), *self._coming]

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self._coming) + len(self._lines) - self._lines.count(None)

    @property
    def kv_bytes(self) -> int:
        """The memory of all rows, whether they are filled or not."""
        return self._bytes(self._size)

    def _bytes(self, size: Size) -> int:
        n_rows, capacity = size
        return 4 * n_rows * self._session.row_size(capacity, 0)

    def offer(self, ticket: Ticket, kv_bytes: int) -> bool:
        """Take a request in, if a row can be found or made for it; see `Lane`."""
        size = self._fitting(_size(ticket.request), kv_bytes)
        if size is None:
            return False
        self._coming.append(line_of(ticket, self._book, self._model))
        self._size = size
        ticket.start()
        return True

    def _fitting(self, places: int, most: int) -> Size | None:
        """Return the size that holds one more, with something to spare if that fits; None if not."""
        others = self.tickets
        n_rows = len(others) + 1
        longest = max([places, *(_size(other.request) for other in others)])
        have_rows, have_places = self._size
        if n_rows <= have_rows and longest <= have_places:
            return self._size
        if not others:
            have_rows = have_places = 0
        rounded = max(-(-longest // _ROUND) * _ROUND, have_places)
        doubled = have_rows if n_rows <= have_rows else max(n_rows, 2 * have_rows)
        for size in (
            (min(doubled, self._limits.max_rows), rounded),
            (n_rows, max(longest, have_places)),
            (n_rows, longest),
        ):
            if size[0] >= n_rows and self._bytes(size) <= most:
                return size
        return None if others else (n_rows, longest)

    def advance(self, n_waiting: int) -> None:
        """Read some of the prompts, and write a token of each answer; see `Lane`."""
        self._in_company = self.n_rows + n_waiting > 1
        if self._drafts is not None and self._in_company:
            self._leave_drafts()
        state = self._ready()
        self._read(state)
        if len(self._reading) < self.n_rows:
            self._write(state)
        self._settle(state, n_waiting)

    def _ready(self) -> CausalState:
        """Return the buffers, with a row for everyone."""
        if self._state is None:
            self._state = CausalState(self._session, *self._size, grows=True)
            for row in range(self._size[0]):
                self._state.rest(row)
        elif self._state.size != self._size:
            self._close_up(self._state)
            self._state.resize(*self._size)
        while self._coming:
            line = self._coming.popleft()
            if None in self._lines:
                line.slot = self._lines.index(None)
                self._lines[line.slot] = line
            else:
                line.slot = len(self._lines)
                self._lines.append(line)
            self._reading.append(line)
        return self._state

    def _read(self, state: CausalState) -> None:
        """Read as many tokens of the prompts, first come first read, as a step leaves time for."""
        left = CHUNK
        while self._reading and left > 1:
            if len(self._reading) < self.n_rows:  # somebody writes
                several = _CROWD if len(self._reading) > 1 else 1
                left = min(left, self._limits.prefill_chunk * several)
            line = self._reading[0]
            # A pass over few tokens takes nearly as long as one over a quarter of what is read.
            least = min(len(line.prompt) - line.n_read, self._limits.prefill_chunk // 4)
            if left < least:
                return
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
            line.n_read = self._take_known(state, line)
            counts.prompt_tokens += len(line.prompt)
            counts.prefix_tokens += line.n_read
        count = n_next(len(line.prompt) - line.n_read, most)
        logits = state.extend(row, line.prompt[line.n_read : line.n_read + count], last=1)
        line.n_read += count
        state.rest(row)
        if not line.is_reading:
            line.accept(logits[-1], self._model.stop_ids)
        return count

    def _take_known(self, state: CausalState, line: Line) -> int:
        """Begin a line's row with what was read of its prompt before, or is in another row."""
        row, prompt = line.slot, line.prompt
        state.restart(row)
        found = state.take_known(row, prompt)
        shared = [
            (state.n_shared(other.slot, prompt), other.slot)
            for other in self._lines
            if other is not None and other.n_read and other is not line
        ]
        most, source = max(shared, default=(0, row))
        if most < LEAST or most <= found:
            return found
        state.restart(row)
        state.copy(row, source, most)
        return most

    def _write(self, state: CausalState) -> None:
        """Write one token of each answer whose prompt is read."""
        if not self._in_company and self._write_drafts(state):
            return
        tokens = [
            None if line is None or line.is_reading else line.token_ids[-1] for line in self._lines
        ]
        try:
            logits = state.step(tokens)
        except ModelError:
            self._write_apart(state, tokens)
            return
        self._book.counts.steps += 1
        for line, token, scores in zip(tuple(self._lines), tokens, logits, strict=True):
            if line is not None and token is not None:
                self._accept(state, line, scores)

    def _write_apart(self, state: CausalState, tokens: Sequence[int | None]) -> None:
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

    def _write_drafts(self, state: CausalState) -> bool:
        """Write a token of the one who is alone, several of which may be guessed; say if that is done."""
        line = self._lines[0]
        if line is None or not line.drafts or len(self._lines) > 1:
            return False
        if self._drafts is None:
            self._drafts = drafting.write_on(
                line,
                state,
                stop_ids=self._model.stop_ids,
                pace=self._session.pace,
                verifier=self._session.verifier,
                leaves=lambda: self._in_company,
            )
        try:
            next(self._drafts, None)
        except Exception as error:
            line.fail(error)
        self._book.counts.steps += 1
        if line.reason is not None:
            self._leave_drafts()
        return True

    def _leave_drafts(self) -> None:
        """Let what was guessed be told to its end: the buffers hold what was written, and no more."""
        (line,), drafts, state = self._lines, self._drafts, self._state
        assert line is not None
        assert state is not None
        self._drafts = None
        try:
            for _ in drafts or ():
                pass
        except Exception as error:
            line.fail(error)
        if line.reason is not None:
            self._end(state, line)

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
        self._drafts = None
        if line in self._reading:
            self._reading.remove(line)
        self._lines[line.slot] = None
        state.restart(line.slot)
        state.rest(line.slot)
        self._trim()

    def _trim(self) -> None:
        while self._lines and self._lines[-1] is None:
            self._lines.pop()

    def _settle(self, state: CausalState, n_waiting: int) -> None:
        """Close up rows that stand empty, unless others are about to come."""
        if not self._all:
            self._rest()
        elif not n_waiting and self._lines.count(None) >= len(self._lines) * _SHRINKS:
            self._close_up(state)

    def _close_up(self, state: CausalState) -> None:
        """Move the last rows to where others have gone."""
        while None in self._lines:
            place, line = self._lines.index(None), self._lines.pop()
            assert line is not None
            state.move(line.slot, place)
            state.restart(line.slot)
            state.rest(line.slot)
            self._lines[place] = line
            line.slot = place
            self._trim()

    def _rest(self) -> None:
        """Keep the buffers for the next request, if they are not large."""
        if self.kv_bytes > IDLE_BYTES:
            self.clear()

    def drop(self, ticket: Ticket) -> None:
        """Let go of a request; see `Lane`."""
        for line in self._all:
            if line.ticket is ticket:
                line.reason = "dropped"
                if line in self._coming:
                    self._coming.remove(line)
                elif self._state is not None:
                    self._free(self._state, line)
        if not self._all:
            self._rest()

    def clear(self) -> None:
        """Let go of all requests, and of all memory."""
        self._coming.clear()
        self._reading.clear()
        self._lines.clear()
        self._drafts = None
        self._size = (0, 0)
        if self._state is not None:
            self._state.close()
            self._state = None


def _size(request: Request) -> int:
    """Return the places that a request may need."""
    return len(request.prompt) + request.limit
