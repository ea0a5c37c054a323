"""Narrow what is drawn from: the best tokens only, by number, by mass, or against the best of all.

A filter gets the scores that the one before it left, and a desk to reckon in, so that nothing as large
as the vocabulary is allocated for a token.

Source: transformers.generation.logits_process (5.23).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import numpy as np

from lmkit.generation import Generation

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Ids: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Filter: TypeAlias = Callable[[Floats, Floats], Ids | None]

_GROUPS = 1024  # how many groups the scores are cut into before the best are sought


@attrs.frozen
class TopK:
    """Keep the `k` best, and whatever ties with the last of them."""

    k: int

    def __call__(self, scores: Floats, desk: Floats) -> Ids | None:
        """Return the positions to keep in ascending order, None for all; float32 [K] in."""
        if self.k >= len(scores):
            return None
        near = _candidates(scores, self.k)
        among = scores[near]
        best: Ids = near[among >= np.partition(among, -self.k)[-self.k]]
        return best


@attrs.frozen
class TopP:
    """Keep the smallest set of best tokens whose probability exceeds `p`; at least one.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    p: float

    def __call__(self, scores: Floats, desk: Floats) -> Ids | None:
        """Return the positions to keep in ascending order; float32 [K] in.

        Like transformers it drops from the bottom while the dropped probability is at most 1 - p.
        Of equal scores at the edge the later ids stay.
        """
        weights = exponentials(scores, desk)
        weights /= weights.sum()
        droppable = np.float32(1 - self.p)
        # What weighs less than an even share of the droppable mass goes in any case, so only the
        # rest is sorted: hundreds instead of the vocabulary. Half, for the sake of rounding.
        rest = np.flatnonzero(weights > 0.5 * droppable / len(weights))
        dropped = weights.sum(dtype=np.float64) - weights[rest].sum(dtype=np.float64)
        ascending = np.sort(weights[rest])
        # torch sums in float64 and rounds each sum to float32, which decides ties at the edge.
        mass = (dropped + np.cumsum(ascending, dtype=np.float64)).astype(np.float32)
        n_dropped = min(int(np.count_nonzero(mass <= droppable)), len(rest) - 1)
        edge = ascending[n_dropped]
        above = weights[rest]
        kept = above >= edge
        n_tied = int(np.count_nonzero(ascending[:n_dropped] == edge))  # these fall all the same
        kept[np.flatnonzero(above == edge)[:n_tied]] = False
        survivors: Ids = rest[kept]
        return survivors


@attrs.frozen
class MinP:
    """Keep what has at least `p` times the best token's probability.

    Source: Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling", section 3. The test is
    made on logits, where probabilities' ratios are differences: no exponential is needed.
    """

    p: float

    def __call__(self, scores: Floats, desk: Floats) -> Ids | None:
        """Return the positions to keep in ascending order; float32 [K] in."""
        return np.flatnonzero(scores >= scores.max() + np.float32(math.log(self.p)))


def filters(options: Generation) -> tuple[Filter, ...]:
    """Return the steps that narrow a draw, in transformers' order; none when greedy."""
    steps: list[Filter] = []
    if options.temperature > 0:
        if options.top_k > 0:
            steps.append(TopK(options.top_k))
        if options.top_p < 1:
            steps.append(TopP(options.top_p))
        if options.min_p > 0:
            steps.append(MinP(options.min_p))
    return tuple(steps)


def exponentials(scores: Floats, desk: Floats | None = None) -> Floats:
    """Return `exp(scores - max)`, float32 [K].

    Args:
        scores: float32 [K].
        desk: float32 [K] or longer, where they are put; fresh memory if None.
    """
    room = None if desk is None else desk[: len(scores)]
    shifted = np.subtract(scores, scores.max(), out=room)
    weights: Floats = np.exp(shifted, out=shifted)
    return weights


def _candidates(scores: Floats, count: int) -> Ids:
    """Return where the `count` best scores are, what ties with the last of them, and a few others.

    Nothing as long as the scores is partitioned: each of a thousand groups has a best score, and
    what is below the `count`-th of those is not among the `count` best of all.
    """
    n_groups = max(_GROUPS, count)
    n_each = len(scores) // n_groups
    if n_each < 2:
        return np.arange(len(scores))
    tops = scores[: n_each * n_groups].reshape(n_each, n_groups).max(axis=0)
    return np.flatnonzero(scores >= np.partition(tops, -count)[-count])
