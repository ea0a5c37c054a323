"""The loop: rows are written together, a token each in a step; who is finished leaves, and another comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lmkit.answering.logits import Logits, rows_at_once
from lmkit.answering.streaming import IncrementalText
from lmkit.encoding import Ids
from lmkit.runtime import drafting
from lmkit.runtime.beams import BeamSearch
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.pace import MOST_GUESSED
from lmkit.runtime.sampling import Sampler
from lmkit.runtime.session import Session, State

# A state shrinks when so large a share of its rows is finished: each time it does, the rows that stay
# are moved together and all arrays bound anew.
_SHRINKS = 0.25


class Row:
    """One answer while it is written.

    Args:
        prompt: what the model is given, int64 [P].
        history: the ids that the answer continues, int64 [T].
        limit: the most tokens of the answer.
        sampler: what chooses its tokens.
        text: what turns them into text.
        beams: what searches for it instead, with `num_beams` above 1.
        drafts: the most tokens that are guessed at once; as many as pay if None.

    Attributes:
        token_ids: the answer's, so far.
        reason: why it ended, or None.
    """

    def __init__(
        self,
        *,
        prompt: Ids,
        history: Ids,
        limit: int,
        sampler: Sampler,
        text: IncrementalText,
        beams: BeamSearch | None = None,
        drafts: int | None = 0,
    ) -> None:
        self.prompt = prompt
        self.drafts = MOST_GUESSED if drafts is None else drafts
        self.beams = beams
        self.limit = limit
        self.text = text
        self.token_ids: list[int] = []
        self.reason: str | None = None
        self._sampler = sampler
        self._pending = ""
        self._before = len(history)
        self._history = np.concatenate([history, np.empty(limit, dtype=np.int64)])

    def accept(self, logits: np.ndarray, stop_ids: frozenset[int]) -> None:
        """Choose the next token from the logits, float32 [V]."""
        length = self._before + len(self.token_ids)
        token = self._sampler.choose(logits, self._history[:length], len(self.token_ids))
        self._history[length] = token
        self._append(token, stop_ids)

    def is_near(self, logits: np.ndarray, margin: float) -> bool:
        """Return whether another token comes within a margin of the best; logits are float32 [V]."""
        history = self._history[: self._before + len(self.token_ids)]
        return self._sampler.is_near(logits, history, len(self.token_ids), margin)

    def take_over(self, token_ids: Sequence[int], stop_ids: frozenset[int]) -> None:
        """Write what a search found, from the first token to the last."""
        for token in token_ids:
            self._append(token, stop_ids)
            if self.reason is not None:
                return
        self._pending += self.text.finish()  # a stop string whose last character might go on
        self.reason = "stop"

    def _append(self, token: int, stop_ids: frozenset[int]) -> None:
        self.token_ids.append(token)
        if token in stop_ids:
            self.reason = "stop"
        else:
            self._pending += self.text.push(token)
            if self.text.stopped:
                self.reason = "stop"
            elif len(self.token_ids) >= self.limit:
                self.reason = "length"
        if self.reason is not None:
            self._pending += self.text.finish()
            if self.text.stopped:  # by a character that might have gone on
                self.reason = "stop"

    def take(self) -> str:
        """Return the text that came since the last call."""
        piece, self._pending = self._pending, ""
        return piece


def write(
    session: Session, rows: Iterable[Row], stop_ids: frozenset[int], *, at_once: int
) -> Iterator[None]:
    """Write rows until all are finished; yields after every token.

    However it ends, its buffers are handed back then.

    Args:
        session: what reads the prompts.
        rows: any number of them; where the state takes new ones, the longest should come first.
        stop_ids: ids that end an answer.
        at_once: how many are written together.
    """
    waiting = deque(rows)
    while waiting:
        writing = [waiting.popleft() for _ in range(min(at_once, len(waiting)))]
        state, logits = session.begin(
            [row.prompt for row in writing], [row.limit for row in writing]
        )
        try:
            yield from _write(session, state, logits, writing, waiting, stop_ids)
            if len(writing) == 1 and isinstance(state, CausalState):
                state.keep()
        finally:
            state.close()


def _write(
    session: Session,
    state: State,
    logits: Logits,
    rows: list[Row],
    waiting: deque[Row],
    stop_ids: frozenset[int],
) -> Iterator[None]:
    while True:
        if len(rows) == 1 and not waiting and rows[0].drafts and isinstance(session, CausalSession):
            assert isinstance(state, CausalState)
            yield from drafting.write(
                rows[0],
                state,
                logits[0],
                stop_ids=stop_ids,
                pace=session.pace,
                verifier=session.verifier,
            )
            return
        for row, scores in zip(rows, logits, strict=True):
            if row.reason is None:
                row.accept(scores, stop_ids)
        _replace(state, rows, waiting, stop_ids)
        yield
        order = staying([row.reason is None for row in rows])
        if not order:
            return
        if len(order) <= len(rows) * (1 - _SHRINKS):
            state.reorder(order)
            rows = [rows[place] for place in order]
        logits = state.step([row.token_ids[-1] if row.reason is None else None for row in rows])


def _replace(state: State, rows: list[Row], waiting: deque[Row], stop_ids: frozenset[int]) -> None:
    """Let rows that wait take the places of finished ones, as far as the state has room for them."""
    for place, row in enumerate(rows):
        while row.reason is not None and waiting:
            logits = state.renew(place, waiting[0].prompt, waiting[0].limit)
            if logits is None:
                return
            row = rows[place] = waiting.popleft()
            row.accept(logits, stop_ids)


def alike(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the places of rows to write together, the largest first: each could take another's place.

    What is held is as many times the largest as rows are written at once. Where that is more than may
    be held, a row stands with those of its size: with none more than twice as large.

    Args:
        sizes: how many numbers are kept for each row.
        most: how many rows are wanted at once.

    >>> list(alike([5, 9, 4, 2], most=4))
    [[1, 0, 2, 3]]
    """
    group: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        if group and 2 * sizes[place] < sizes[group[0]] and most > rows_at_once(sizes[group[0]]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def staying(goes_on: Sequence[bool]) -> list[int]:
    """Return which rows stay, in an order that moves few: the last ones fill the places left free.

    >>> staying([True, False, True, False, True, True])
    [0, 5, 2, 4]
    """
    places = [place for place, going in enumerate(goes_on) if going]
    order = list(range(len(places)))
    movers = iter(reversed(places))
    return [place if goes_on[place] else next(movers) for place in order]
