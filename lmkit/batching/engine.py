"""The engine: one thread that lets requests in, has them computed step by step, and tells what came.

Any thread may submit, take, wait and cancel. The engine's own thread does, step after step: end who is
cancelled or out of time, let in those that wait, in their order, as far as there is room, have each
lane take a step, and tell of it. Without work it sleeps.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import attrs

from lmkit.batching import calls
from lmkit.batching.cohorts import Cohorts
from lmkit.batching.lanes import Book, Lane
from lmkit.batching.limits import Limits, Stats
from lmkit.batching.requests import Kind, Request, made
from lmkit.batching.slots import Slots
from lmkit.batching.tickets import Ticket, cancelled
from lmkit.batching.turns import Turn
from lmkit.decoding import Chooser
from lmkit.encoding import Ids
from lmkit.errors import Busy, DeadlineExceeded
from lmkit.formatting import Record
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller
from lmkit.runtime.opening import load
from lmkit.saving.manifest import Graph
from lmkit.task import Task

# Without work, until memory that is kept for the next request goes back to the system.
IDLE_S = 10.0

_log = logging.getLogger(__name__)


class Engine:
    """A bundle that answers many requests at a time. Any thread may call it.

    Args:
        model: the open bundle.
        limits: how much it takes on.
        turn: what engines of one process share, so that they take the cores in turn; alone if None.
        on_news: called from the engine's thread, at most once a step, with the tickets that have
            something new; it must not block, for all requests wait meanwhile.

    Attributes:
        model: the open bundle.
        limits: how much it takes on.
    """

    def __init__(
        self,
        model: Generator | MaskFiller,
        *,
        limits: Limits | None = None,
        turn: Turn | None = None,
        on_news: Callable[[Sequence[Ticket]], None] | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self._turn: AbstractContextManager[None] = turn or nullcontext()
        self._on_news = on_news
        self._book = Book()
        self._lanes = _lanes(model, self._book, self.limits)
        self._wakes = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._has_changed = False  # somebody was cancelled, or it is closing
        self._deadlines: list[float] = []  # a heap; some are of requests that are done
        self._closes_at: float | None = None
        self._rows = 0
        self._kv_bytes = 0
        name = f"lmkit-engine-{self.task.name}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        # A thread that is inside onnxruntime when the interpreter ends would take it down with it.
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"Engine({str(self.model.path)!r}, {self.task!r})"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def task(self) -> Task:
        """What it does."""
        return self.model.task

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it was not closed, and its thread is there to compute."""
        return self._closes_at is None and self._thread.is_alive()

    def prepare(
        self,
        prompt: Record | Ids | Sequence[int],
        *,
        options: Mapping[str, Any] = {},
        n_logprobs: int | None = None,
        logit_bias: Mapping[int, float] = {},
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        timeout: float | None = None,
    ) -> Request:
        """Make a request of a prompt; it may take milliseconds, and waits for nobody.

        Args:
            prompt: the task's prompt columns; or, of a causal task that writes, ready-made ids,
                int64 [P], which are taken as they are.
            options: fields of `Generation`, such as `temperature`.
            n_logprobs: with how many of the likeliest tokens each token's score comes; None for no
                scores.
            logit_bias: what is added to the logits of some tokens, by id.
            presence_penalty: what the logits of tokens lose that the answer has already.
            frequency_penalty: what they lose for each time that it has them.
            timeout: seconds from its submission until it fails, or None.
        Raises:
            RecordError: a column is missing or of the wrong type.
            PromptTooLong: the prompt does not fit the model's context.
            UnknownOption: `Generation` has no such field.
            TaskError: a number is out of its range, the task has no use for it, or the prompt's keys
                and values would not fit the engine's memory.
        """
        return made(
            self.model,
            prompt,
            kv_bytes=self.limits.kv_bytes,
            options=options,
            n_logprobs=n_logprobs,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            timeout=timeout,
        )

    def submit(self, request: Request) -> Ticket:
        """Put a request into the queue; never blocks.

        Raises:
            Busy: the queue is full, or the engine is closing.
        """
        ticket = Ticket(request, self._wake)
        with self._wakes:
            if not self.is_open:
                raise Busy("the engine is closing, and takes no more requests")
            # Who waits for a row that is free is not in a queue.
            free = max(0, self.limits.max_rows - self._rows)
            if len(self._waiting) >= self.limits.max_waiting + free:
                raise Busy(
                    f"{len(self._waiting)} requests are waiting already, which is the most; "
                    "try again later",
                    retry_after=self._estimate(),
                )
            self._waiting.append(ticket)
            if ticket.deadline is not None:
                heapq.heappush(self._deadlines, ticket.deadline)
            self._wakes.notify()
        return ticket

    def _estimate(self) -> float:
        """Return in how many seconds a place in the queue is likely to be free."""
        return max(1.0, self._book.seconds / self.limits.max_rows)

    def stats(self) -> Stats:
        """Return what it does now, and has done so far."""
        return Stats(
            rows=self._rows,
            waiting=len(self._waiting),
            kv_bytes_used=self._kv_bytes,
            kv_bytes_most=self.limits.kv_bytes,
            **attrs.asdict(self._book.counts),
        )

    def close(self, *, drain: float = 0.0) -> None:
        """Take no more requests, and stop; a second call does nothing more.

        Args:
            drain: for how many seconds those that wait or run may go on; then they fail with `Busy`.
        """
        with self._wakes:
            ends = time.perf_counter() + drain
            self._closes_at = ends if self._closes_at is None else min(ends, self._closes_at)
            self._has_changed = True
            self._wakes.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            atexit.unregister(self.close)

    def _wake(self) -> None:
        with self._wakes:
            self._has_changed = True
            self._wakes.notify()

    def _work(self) -> None:
        """What the engine's thread does."""
        while self._has_work():
            try:
                with self._turn:
                    self._step()
            except Exception as error:  # nobody's own, nor one lane's: the thread must not end
                _log.exception("the engine failed")
                self._end_all(error)
            self._tell()
        self._end_all(Busy("the engine was closed before the answer was whole"))
        self._tell()

    def _has_work(self) -> bool:
        """Sleep until there is something to do; say whether that is not to end."""
        idle: float | None = IDLE_S
        with self._wakes:
            while True:
                works = bool(self._waiting) or self._rows > 0
                if self._closes_at is not None:
                    return works and time.perf_counter() < self._closes_at
                if works or self._has_changed:
                    return True
                if not self._wakes.wait(idle):
                    self._give_memory_back()
                    idle = None

    def _give_memory_back(self) -> None:
        """Keep nothing for a next request that does not come."""
        for lane in self._lanes.values():
            lane.clear()
        self._kv_bytes = 0
        if isinstance(self.model, Generator):
            self.model.session.pool.clear()

    def _step(self) -> None:
        self._sweep()
        self._let_in()
        for lane in self._lanes.values():
            if lane.n_rows:
                try:
                    lane.advance(len(self._waiting))
                except Exception as error:  # nobody's own: whoever was in it cannot go on
                    self._book.all_failed(tuple(lane.tickets), error)
                    lane.clear()
        self._rows = sum(lane.n_rows for lane in self._lanes.values())
        self._kv_bytes = sum(lane.kv_bytes for lane in self._lanes.values())

    def _sweep(self) -> None:
        """End those that are cancelled, or whose time is over."""
        now = time.perf_counter()
        if not self._has_changed and (not self._deadlines or self._deadlines[0] > now):
            return
        with self._wakes:
            self._has_changed = False
            waiting, self._waiting = self._waiting, deque()
            self._waiting.extend(ticket for ticket in waiting if not self._ends(ticket, now))
            while self._deadlines and self._deadlines[0] <= now:
                heapq.heappop(self._deadlines)
        for lane in self._lanes.values():
            for ticket in tuple(lane.tickets):
                if self._ends(ticket, now):
                    lane.drop(ticket)

    def _ends(self, ticket: Ticket, now: float) -> bool:
        if ticket.is_cancelled:
            self._book.cancelled(ticket, cancelled())
        elif ticket.deadline is not None and ticket.deadline <= now:
            seconds = ticket.request.timeout
            self._book.failed(
                ticket, DeadlineExceeded(f"the answer was not whole after {seconds:g} s")
            )
        return ticket.done

    def _let_in(self) -> None:
        """Let in those that wait, in their order, as far as there is room."""
        while self._waiting:
            ticket = self._waiting[0]
            lane = self._lanes[ticket.request.kind]
            n_rows = sum(lane.n_rows for lane in self._lanes.values())
            needed = ticket.request.n_rows
            if n_rows and n_rows + needed > self.limits.max_rows:
                return
            others = [one for one in self._lanes.values() if one is not lane]
            most = self.limits.kv_bytes - sum(one.kv_bytes for one in others)
            if ticket.request.kv_bytes > most:
                if any(one.n_rows for one in others):
                    return
                for one in others:  # what they keep is for nobody yet
                    one.clear()
                most = self.limits.kv_bytes
            try:
                if not lane.offer(ticket, most):
                    return
            except Exception as error:
                self._book.failed(ticket, error)
            with self._wakes:
                self._waiting.popleft()
                self._rows = n_rows + needed

    def _tell(self) -> None:
        """Tell whoever wants to know whose tickets have something new."""
        news, self._book.news = self._book.news, {}
        if news and self._on_news is not None:
            try:
                self._on_news(tuple(news))
            except Exception:  # the caller's: it must not stop the others' answers
                _log.exception("on_news failed")

    def _end_all(self, error: Exception) -> None:
        with self._wakes:
            waiting, self._waiting = tuple(self._waiting), deque()
        running = [ticket for lane in self._lanes.values() for ticket in lane.tickets]
        now = time.perf_counter()
        left = [ticket for ticket in (*waiting, *running) if not self._ends(ticket, now)]
        self._book.all_failed(left, error)
        for lane in self._lanes.values():
            lane.clear()
        self._rows = self._kv_bytes = 0


def open_engine(
    path: str | Path,
    *,
    limits: Limits | None = None,
    turn: Turn | None = None,
    on_news: Callable[[Sequence[Ticket]], None] | None = None,
    **options: Any,
) -> Engine:
    """Open a bundle for many requests at a time.

    Args:
        path: the bundle's folder.
        limits: as for `Engine`.
        turn: as for `Engine`.
        on_news: as for `Engine`.
        options: as for `lmkit.load`: `precision`, `threads`, `verify` and so on.
    Raises:
        BundleError: the bundle is damaged, from the future, or answers differently than at export.
    """
    return Engine(load(path, **options), limits=limits, turn=turn, on_news=on_news)


def _lanes(model: Generator | MaskFiller, book: Book, limits: Limits) -> dict[Kind, Lane]:
    """Return the lane of each kind of request that a model can have."""
    if not isinstance(model, Generator):
        return {Kind.FILL: calls.Calls(calls.fills(model), book)}
    if isinstance(model.task.decoder, Chooser):
        return {Kind.CHOICE: calls.Calls(calls.choices(model), book)}
    found: dict[Kind, Lane] = {Kind.BEAMS: Cohorts(model, book, limits)}
    if isinstance(model.manifest.graph, Graph) and model.writer is model.session:
        found[Kind.SLOT] = Slots(model, book, limits)
    else:
        found[Kind.TOGETHER] = Cohorts(model, book, limits)
    return found
