"""Decide how many tokens to guess: from what steps cost on this machine, and how guesses fared."""

from __future__ import annotations

import math

import numpy as np

MOST_GUESSED = 31  # tokens of one draft
_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # tokens that are verified at once
_STEADY = 1e-3  # the most rounding, in logits, of a model that does not round its activations
_WORTH = 1.05  # times the plain loop's tokens a second, below which a draft is left out
_LOST = 0.03  # of the plain loop's time: what drafts that failed may cost in the long run
_FIRST, _SAVED = 1.5, 6.0  # steps: what they may cost at first, and what they may save up to cost
_NEWS = 0.2  # the share of the latest measurement
_FORGOTTEN = 0.99  # of all of them, at every step: a machine is not equally busy all the time
_SUPPOSED = ((2, 1.3), (16, 3.0))  # tokens and their cost, before any was measured
# Of 4 earlier guesses behind a match of so many tokens, how many were right; before any was made.
_BELIEFS = ((2, 1.4), (3, 2.0), (5, 2.6), (8, 3.2), (math.inf, 3.6))


class Pace:
    """What a model's steps take, and what drafts may still cost. One for all requests of a model.

    Reading n tokens at once takes as long as `1 + a + b * n` steps of one: a and b are fitted to what
    was measured, of which the latest counts most. Several threads may use it: an update that is lost
    to another one is made up for by the next.

    Attributes:
        rounding: how far logits of tokens that are read together were from those of one token at a
            time; None before it was measured.
        credit: what drafts may still cost, in steps of the plain loop.
    """

    def __init__(self) -> None:
        self.rounding: float | None = None
        self.credit = _FIRST
        self._step: float | None = None
        self._sums = np.zeros(5)  # of 1, n, n * n, y and n * y, where y is what was measured less 1
        self._fit = _line(self._sums)

    @property
    def is_steady(self) -> bool | None:
        """Whether rounding stays in the last bits; None before it was measured."""
        return None if self.rounding is None else self.rounding <= _STEADY

    def stepped(self, seconds: float) -> None:
        """Take note of a step of one token, and how long it took."""
        known = seconds if self._step is None else self._step
        # What took far longer than usual was disturbed: it tells nothing of the next.
        self._step = known + _NEWS * (min(seconds, 2 * known) - known)
        self._sums = _FORGOTTEN * self._sums
        self.credit = min(_SAVED, self.credit + _LOST)

    def verified(self, n_tokens: int, seconds: float, n_written: int) -> None:
        """Take note of a draft.

        Args:
            n_tokens: how many tokens were read at once.
            seconds: how long it took.
            n_written: how many tokens the text grew by.
        """
        if self._step is not None:
            beyond = min(seconds / self._step, 2 * self.cost(n_tokens)) - 1
            self._sums = (1 - _NEWS) * self._sums + _sums_of(n_tokens, beyond)
            self._fit = _line(self._sums)
        self.credit = min(_SAVED, self.credit + n_written - self.cost(n_tokens))

    def cost(self, n_tokens: int) -> float:
        """Return what reading some tokens at once costs, in steps of one token."""
        base, slope = self._fit
        return 1 + base + slope * n_tokens

    def best_count(self, chance: float, most: int, read: int | None = None) -> int:
        """Return how many tokens to guess; 0 where guessing does not pay.

        Args:
            chance: how likely each of them is right if those before it are.
            most: the most.
            read: how many tokens are read for any draft; as many as it has if None.
        """
        best, count = _WORTH, 0
        for size in _SIZES if read is None else (read,):
            size = min(size, most + 1)
            cost = self.cost(size if read is None else read)
            if size < 2 or cost - 1 > self.credit:
                break
            speed = (1 - chance**size) / (1 - chance) / cost
            if speed > best:
                best, count = speed, size - 1
        return count


class Odds:
    """How likely a guessed token is right in one text, by the length of the match behind it."""

    def __init__(self) -> None:
        self._right = [right for _, right in _BELIEFS]
        self._all = [4.0] * len(_BELIEFS)

    def chance(self, matched: int) -> float:
        """Return the likelihood, below 1, of each token behind a match of so many tokens."""
        kind = _kind(matched)
        return min(0.98, self._right[kind] / self._all[kind])

    def learn(self, matched: int, n_right: int, n_guessed: int) -> None:
        """Take note of a draft, of which the first so many tokens were right."""
        kind = _kind(matched)
        self._right[kind] = 0.9 * self._right[kind] + n_right
        self._all[kind] = 0.9 * self._all[kind] + min(n_right + 1, n_guessed)


def _kind(matched: int) -> int:
    return next(place for place, (most, _) in enumerate(_BELIEFS) if matched <= most)


def _sums_of(n_tokens: int, beyond: float) -> np.ndarray:
    """Return what a line is fitted from, float64 [5], for one measurement; a long time counts less."""
    parts = np.array([1, n_tokens, n_tokens**2, beyond, n_tokens * beyond])
    found: np.ndarray = parts / (1 + max(beyond, 0.0))
    return found


_PRIOR = 0.2 * np.sum([_sums_of(n_tokens, cost - 1) for n_tokens, cost in _SUPPOSED], axis=0)


def _line(sums: np.ndarray) -> tuple[float, float]:
    """Return the line nearest to what was measured and supposed: its base and slope, neither below 0."""
    n, x, xx, y, xy = (_PRIOR + sums).tolist()
    slope = max(0.0, (n * xy - x * y) / (n * xx - x * x))
    base = (y - slope * x) / n
    return (base, slope) if base > 0 else (0.0, max(0.0, xy / xx))
