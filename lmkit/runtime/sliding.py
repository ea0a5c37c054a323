"""Write on past a window's end: a session for texts that are longer than the model reads at once.

A model of windows of a text has learned no position beyond one. When a row has filled a window, the
last half of its text is read anew, and writing goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmkit.answering.logits import Logits, LogProbs
from lmkit.encoding import Encoded, Ids
from lmkit.runtime.session import Session, State


class SlidingSession:
    """A causal session whose rows never run out of room.

    Args:
        session: what reads and writes one window.
        window: the most tokens of a row that are looked at, the one being written included.
        kept: how many tokens a row goes on from when its window is full.
    """

    def __init__(self, session: Session, *, window: int, kept: int) -> None:
        self.session = session
        self.pool = session.pool
        self.window = window
        self.kept = kept

    @property
    def vocab_size(self) -> int:
        """The numbers in a row of logits."""
        return self.session.vocab_size

    def room(self, prompt: Ids) -> None:
        """Return None: any number of tokens can follow."""

    def history(self, prompt: Ids) -> Ids:
        """Return the prompt: an answer continues it."""
        return self.session.history(prompt)

    def row_size(self, n_prompt: int, limit: int) -> int:
        """Return how many numbers are kept while a row is written; see `Session`."""
        longest = min(n_prompt + limit, self.window)
        return self.session.row_size(longest, 0)

    def begin(self, prompts: Sequence[Ids], limits: Sequence[int]) -> tuple[State, Logits]:
        """Read the last window of each prompt; see `Session`."""
        state = SlidingState(self, prompts, limits)
        return state, state.read()

    def forced(self, prompt: Ids, answer: Ids) -> Logits:
        """Return the logits that predict each token of an answer; both must fit the model."""
        return self.session.forced(prompt, answer)

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""
        return self.session.log_probs(rows)


class SlidingState:
    """Rows that are being written, each of them seen through a window of its own."""

    def __init__(
        self, session: SlidingSession, prompts: Sequence[Ids], limits: Sequence[int]
    ) -> None:
        self._session = session
        self._seen = [prompt[1 - session.window :].tolist() for prompt in prompts]
        self._left = list(limits)
        self._state: State | None = None

    def read(self) -> Logits:
        """Read what each row sees, anew; return the logits behind it, float32 [B, V]."""
        window = self._session.window
        prompts = [np.array(seen, dtype=np.int64) for seen in self._seen]
        rooms = [
            max(1, min(left, window - len(seen)))
            for left, seen in zip(self._left, self._seen, strict=True)
        ]
        self.close()
        self._state, logits = self._session.session.begin(prompts, rooms)
        return logits

    def reorder(self, rows: Sequence[int]) -> None:
        """Put copies of the named rows in the place of all; see `State`."""
        self._seen = [list(self._seen[row]) for row in rows]
        self._left = [self._left[row] for row in rows]
        assert self._state is not None
        self._state.reorder(rows)

    def renew(self, row: int, prompt: Ids, limit: int) -> None:
        """Return None: rows begin together."""

    def close(self) -> None:
        """Hand the buffers back; see `State`."""
        if self._state is not None:
            self._state.close()

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append one token to each row and return the logits behind it; see `State`."""
        full = False
        for row, token in enumerate(tokens):
            if token is not None:
                self._seen[row].append(token)
                self._left[row] -= 1
                if len(self._seen[row]) >= self._session.window:
                    self._seen[row] = self._seen[row][-self._session.kept :]
                    full = True
        if full:
            return self.read()
        assert self._state is not None
        return self._state.step(tokens)
