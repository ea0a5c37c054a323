"""Prompt-lookup decoding: guess what comes next from what was read and written, and check it at once.

Text that repeats, as a summary, a correction or an edit does, can be written several tokens at a
time: the end of the text is looked up earlier in it, what followed there is the draft, and one step of
the model gives the logits behind every token of the draft. It is followed as far as it is what the
plain loop writes anyway.

**The tokens are the plain loop's**, since every one is chosen from its own place's logits, with
the options' penalties for that place. What may differ is rounding: a model that reads several tokens
at once adds its products in another order. So

- a model that rounds its activations (4- and 8-bit products with accuracy level 4, dynamic int8)
  turns a difference in the last bit into one that decides; its drafts are read by another graph, bit
  for bit as steps are (`lmkit.runtime.verifying`), and it writes without any where there is none. In
  fp32, how far the logits differ is measured, once per loaded model, at its first draft;
- where the two best tokens are nearer than `_MARGIN` times that measure, every token since the last
  single step is read once more, one at a time, so that the choice is made from the plain loop's own
  numbers.

How long drafts are is decided by `lmkit.runtime.pace`; where nothing repeats there are none. Looking up
takes 5 microseconds a token.

A draw is not looked up: rounding moves the edges between what is drawn a little, everywhere.

Source: Saxena 2023, "Prompt Lookup Decoding"; Leviathan et al. 2023, "Fast Inference from Transformers
via Speculative Decoding", section 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from lmkit.answering.logits import Logits
from lmkit.encoding import Ids
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.pace import MOST_GUESSED, Odds, Pace
from lmkit.runtime.repeats import Repeats
from lmkit.runtime.verifying import Verifier

# A difference between two logits changes by twice what each does; the rest is for what one
# measurement may have missed.
_MARGIN = 8


class Writing(Protocol):
    """One greedy answer while it is written.

    Attributes:
        prompt: int64 [P].
        limit: the most tokens of the answer.
        drafts: the most tokens of a draft.
        token_ids: the answer's, so far.
        reason: why it ended, or None.
    """

    prompt: Ids
    limit: int
    drafts: int
    token_ids: list[int]
    reason: str | None

    def accept(self, logits: Logits, stop_ids: frozenset[int]) -> None:
        """Choose the next token from the logits, float32 [V]."""

    def is_near(self, logits: Logits, margin: float) -> bool:
        """Return whether another token is nearer to the best than a margin."""


def write(
    row: Writing,
    state: CausalState,
    logits: Logits,
    *,
    stop_ids: frozenset[int],
    pace: Pace,
    verifier: Verifier | None = None,
) -> Iterator[None]:
    """Write an answer to its end; yields after every token.

    Args:
        row: the answer; it is greedy.
        state: one row, which has read the prompt and what was written so far.
        logits: float32 [V], those behind that.
        stop_ids: ids that end an answer.
        pace: what the model's steps cost.
        verifier: what reads drafts where the model itself cannot.
    """
    row.accept(logits, stop_ids)
    yield
    yield from write_on(row, state, stop_ids=stop_ids, pace=pace, verifier=verifier)


def write_on(
    row: Writing,
    state: CausalState,
    *,
    stop_ids: frozenset[int],
    pace: Pace,
    verifier: Verifier | None = None,
    leaves: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Write on behind an answer's last token, which was not read yet; yields after every token.

    Args:
        row: the answer; it is greedy, and has a token at least.
        state: its first row has read the prompt and what was written, but for the last token.
        stop_ids: ids that end an answer.
        pace: what the model's steps cost.
        verifier: what reads drafts where the model itself cannot.
        leaves: asked where no draft is under way; if true, this ends there, with the state as it was
            given: all but the last token is read.
    """
    text = [*row.prompt.tolist(), *row.token_ids[:-1]]
    drafts = _Drafts(text, state, pace, row.drafts, verifier)
    while row.reason is None and not leaves():
        drafts.text.append(row.token_ids[-1])
        guessed = drafts.guess(row.limit - len(row.token_ids) - 1)
        if not guessed:
            row.accept(drafts.step(), stop_ids)
            yield
            continue
        n_right = 0
        for place, logits in enumerate(drafts.verify(guessed)):
            near = drafts.margin > 0 and row.is_near(logits, drafts.margin)
            if near:
                logits = drafts.read_again(len(drafts.text.tokens))
            row.accept(logits, stop_ids)
            yield
            right = place < len(guessed) and row.token_ids[-1] == guessed[place]
            n_right += right
            if near or not right or row.reason is not None:
                break
            drafts.text.append(row.token_ids[-1])
        drafts.keep(n_right)


class _Drafts:
    """What was read and written of one text, and the model's state of it."""

    def __init__(
        self,
        text: Sequence[int],
        state: CausalState,
        pace: Pace,
        most: int,
        verifier: Verifier | None,
    ) -> None:
        self.text = Repeats(text)
        self._state = state
        self._pace = pace
        self._most = most
        self._verifier = None if pace.is_steady else verifier
        self._missed: tuple[int, list[int], int] | None = None
        self._odds = Odds()
        self._matched = 0
        self._n_guessed = 0
        self._seconds = 0.0
        self._plain = len(text)  # what the plain loop's own numbers are kept of, from the start

    @property
    def margin(self) -> float:
        """How near two logits may be for rounding to tell them apart wrongly."""
        exact = self._verifier is not None
        return 0.0 if exact else _MARGIN * (self._pace.rounding or 0.0)

    def guess(self, room: int) -> list[int]:
        """Return what may follow, at most `room` tokens; none where that does not pay."""
        most = min(self._most, room)
        if most < 1:
            return []
        if self._verifier is not None:
            return self._guess_exactly(self._verifier, most)
        if self._pace.is_steady is False:
            return []
        self._matched = self.text.match()
        if not self._matched:
            return []
        count = self._pace.best_count(self._odds.chance(self._matched), most)
        if not count:
            return []
        guessed = self.text.guess(count)
        if self._pace.rounding is None:
            some = [self.text.tokens[-1], *self.text.guess(MOST_GUESSED)]
            self._state.measure_rounding(0, np.array(some, dtype=np.int64))
            return []
        return guessed

    def _guess_exactly(self, verifier: Verifier, most: int) -> list[int]:
        """Return what may follow, for the verifier; while it is not loaded, see what that misses."""
        read = verifier.most
        if verifier.is_exact is False or not self._state.has_room(0, read):
            return []
        if self._missed is not None and not self._has_seen(verifier):
            return []
        self._matched = self.text.match()
        if not self._matched:
            return []
        count = self._pace.best_count(self._odds.chance(self._matched), most, read)
        if not count:
            return []
        guessed = self.text.guess(min(count, read - 1))
        if verifier.onnx is not None:
            return guessed
        if verifier.is_worth_loading:
            some = [*self.text.tokens[-1:], *self.text.guess(read - 1)]
            verifier.load(self._state, np.array(some, dtype=np.int64))
        else:
            self._missed = len(self.text.tokens), guessed, self._matched
        return []

    def _has_seen(self, verifier: Verifier) -> bool:
        """Say whether it is known what became of the draft that was not read; learn from it then."""
        assert self._missed is not None
        start, guessed, matched = self._missed
        written = self.text.tokens[start:]
        n_right = 0
        for wanted, token in zip(guessed, written, strict=False):
            if wanted != token:
                break
            n_right += 1
        if n_right == len(written) < len(guessed):
            return False
        self._odds.learn(matched, n_right, len(guessed))
        verifier.missed = max(0.0, verifier.missed + n_right + 1 - self._pace.cost(verifier.most))
        self._missed = None
        return True

    def step(self) -> Logits:
        """Read the last token alone; return the logits behind it, float32 [V]."""
        length, began = self._state.length(0), time.perf_counter()
        logits: Logits = self._state.step([self.text.tokens[-1]])[0]
        self._pace.stepped(time.perf_counter() - began)
        if self._plain == length:
            self._plain += 1
        return logits

    def verify(self, guessed: list[int]) -> Logits:
        """Read the last token and a draft; return the logits behind each, float32 [1 + K, V]."""
        ids = np.array([self.text.tokens[-1], *guessed], dtype=np.int64)
        began = time.perf_counter()
        if self._verifier is not None and self._verifier.onnx is not None:
            logits = self._state.verify(0, ids, self._verifier.onnx)
        else:
            logits = self._state.extend(0, ids)
        self._seconds = time.perf_counter() - began
        self._n_guessed = len(guessed)
        return logits

    def keep(self, n_right: int) -> None:
        """Forget what was read of a draft behind its first `n_right` tokens, and learn from it."""
        self._state.rewind(0, len(self.text.tokens))
        self._odds.learn(self._matched, n_right, self._n_guessed)
        read = self._n_guessed + 1 if self._verifier is None else self._verifier.most
        self._pace.verified(read, self._seconds, n_right + 1)

    def read_again(self, length: int) -> Logits:
        """Read the text up to a length as the plain loop does; return the logits behind it."""
        self._state.rewind(0, self._plain)
        self._pace.credit -= length - self._plain
        for token in self.text.tokens[self._plain : length]:
            logits = self._state.step([token])
        self._plain = length
        last: Logits = logits[0]
        return last
