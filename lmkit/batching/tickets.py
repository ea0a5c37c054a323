"""Tickets: what a caller holds of a request while it waits, is written, and when it is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import attrs

from lmkit.batching.requests import Request
from lmkit.batching.scores import TokenScore
from lmkit.decoding import Answer


@attrs.frozen
class Update:
    """What came of an answer since it was last asked.

    Attributes:
        text: what is safe to show; it never ends inside a character.
        token_ids: the tokens that were written; their text may come with a later update.
        scores: a score for each of them, where scores were asked for.
        done: whether nothing more will come.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    scores: tuple[TokenScore, ...] = ()
    done: bool = False


class Ticket:
    """A request that was submitted. Any thread may use it.

    Args:
        request: what was asked.
        wake: tells the engine that something has changed.

    Attributes:
        request: what was asked.
        done: whether the answer is whole, or an error says why it never will be.
        answer: the whole answer, or None.
        error: what went wrong, or None; `concurrent.futures.CancelledError` when it was cancelled.
        queued_at: when it was submitted, by `time.perf_counter()`; so are the other times.
        started_at: when it was given a row, or None; its prompt is read behind those before it.
        first_token_at: when its first token was written, or None.
        finished_at: when it was done, or None.
    """

    def __init__(self, request: Request, wake: Callable[[], None]) -> None:
        self.request = request
        self.done = False
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.queued_at = time.perf_counter()
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.finished_at: float | None = None
        self.is_cancelled = False
        self._wake = wake
        self._lock = threading.Lock()
        self._whole = threading.Event()
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._scores: list[TokenScore] = []

    def __repr__(self) -> str:
        return f"Ticket({'done' if self.done else 'running' if self.started_at else 'waiting'})"

    @property
    def deadline(self) -> float | None:
        """When its time is over, or None."""
        timeout = self.request.timeout
        return None if timeout is None else self.queued_at + timeout

    def take(self) -> Update:
        """Return what came since the last call; never blocks."""
        with self._lock:
            found = Update(
                "".join(self._text), tuple(self._token_ids), tuple(self._scores), self.done
            )
            self._text, self._token_ids, self._scores = [], [], []
        return found

    def wait(self, timeout: float | None = None) -> Answer:
        """Return the whole answer; blocks until it is there.

        Args:
            timeout: seconds after which this gives up waiting; the request goes on.
        Raises:
            TimeoutError: it is not there yet.
            DeadlineExceeded: the request's own time was over.
            CancelledError: it was cancelled; `concurrent.futures` has it.
            LmkitError: whatever else went wrong.
        """
        if not self._whole.wait(timeout):
            raise TimeoutError(f"the answer was not there after {timeout} s")
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer

    def cancel(self) -> None:
        """Stop it; its row is free before the next step. What is done already stays done."""
        if not self.done:
            self.is_cancelled = True
            self._wake()

    def start(self) -> None:
        """Take note that it has a row; the engine says so."""
        if self.started_at is None:
            self.started_at = time.perf_counter()

    def push(self, text: str, token_id: int, score: TokenScore | None) -> None:
        """Add a token that was written; the engine does."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        with self._lock:
            self._text.append(text)
            self._token_ids.append(token_id)
            if score is not None:
                self._scores.append(score)

    def end(
        self, answer: Answer | None = None, error: Exception | None = None, text: str = ""
    ) -> None:
        """Give the whole answer, or what went wrong; the engine does, once.

        Args:
            answer: what was written.
            error: why it was not.
            text: what was not shown of it yet.
        """
        with self._lock:
            if self.done:
                return
            if text:
                self._text.append(text)
            self.answer, self.error = answer, error
            self.finished_at = time.perf_counter()
            self.done = True
        self._whole.set()


def cancelled() -> CancelledError:
    """Return what a cancelled request ends with."""
    return CancelledError("the request was cancelled")
