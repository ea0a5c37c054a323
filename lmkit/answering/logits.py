"""Logits: how many are held at once, and what they say of the tokens that came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Ids

Logits = NDArray[np.float32]
LogProbs = NDArray[np.float64]

HELD_FLOATS = 1 << 27  # logits, or keys and values, held at once: half a gigabyte

_TOGETHER = 8  # rows of logits whose exponentials are taken at once


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
    found: LogProbs = np.empty(len(token_ids), dtype=np.float64)
    for start in range(0, len(token_ids), _TOGETHER):
        # A few rows stay in the cache; a copy of all would be as large as the logits.
        part = logits[start : start + _TOGETHER]
        ids = token_ids[start : start + _TOGETHER]
        scores = part - part.max(axis=1, keepdims=True)
        picked = scores[np.arange(len(ids)), ids].astype(np.float64)
        np.exp(scores, out=scores)
        found[start : start + len(ids)] = picked - np.log(scores.sum(axis=1, dtype=np.float64))
    return found
