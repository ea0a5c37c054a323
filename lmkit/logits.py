"""Logits: how many are held at once, and what they say of the tokens that came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Ids

Logits = NDArray[np.float32]
LogProbs = NDArray[np.float64]

HELD_FLOATS = 1 << 27  # logits, or keys and values, held at once: half a gigabyte


def rows_at_once(n_floats: int) -> int:
    """Return how many rows, each of so many floats, may be held at once; at least one."""
    return max(1, HELD_FLOATS // n_floats)


def rows_together(lengths: Sequence[int], vocab_size: int, most: int) -> Iterator[list[int]]:
    """Yield the places of rows to read together, those of like length, so that little is padded.

    Args:
        lengths: each row's tokens.
        vocab_size: the logits of a token.
        most: the most rows together; there are fewer where their logits could not be held.

    >>> list(rows_together([3, 1, 2], vocab_size=8, most=2))
    [[1, 2], [0]]
    """
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if group and len(group) >= min(most, rows_at_once(lengths[place] * vocab_size)):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def log_probs_of(logits: Logits, token_ids: Ids) -> LogProbs:
    """Return the log-probability of one token in each row of logits.

    Args:
        logits: float32 [L, V].
        token_ids: int64 [L].
    Returns:
        float64 [L], in nats.

    >>> log_probs_of(np.zeros((1, 4), np.float32), np.array([2])).round(3)
    array([-1.386])
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    picked = scores[np.arange(len(token_ids)), token_ids]
    found: LogProbs = picked - np.log(np.exp(scores).sum(axis=1))
    return found
