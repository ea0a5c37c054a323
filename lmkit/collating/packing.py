"""Pack: several rows fill one sequence, so that hardly a place in a batch is padding.

Rows are put best-fit: each into the sequence in which the fewest places stay empty, longer ones
first. What is packed together differs from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Ids

Order = NDArray[np.intp]


def packing_fill(lengths: Sequence[int] | Ids, max_length: int) -> float:
    """Return the share of places that hold a token when rows are packed; 1.0 of no rows.

    Args:
        lengths: N rows' lengths in tokens, each at most `max_length`.
        max_length: the places in a sequence.

    >>> packing_fill([6, 5, 4, 3, 2], 10)
    1.0
    >>> packing_fill([6, 6], 10)
    0.6
    """
    found = np.asarray(lengths, dtype=np.int64)
    if not len(found):
        return 1.0
    n_sequences = int(best_fit(found, max_length, _longest_first(found)).max()) + 1
    return float(found.sum() / (n_sequences * max_length))


def best_fit(lengths: Ids, max_length: int, order: Order) -> Ids:
    """Return which sequence each row is put into, int64 [N], counted from 0.

    A row goes where the fewest places stay empty behind it, or opens a new sequence.

    Args:
        lengths: int64 [N], each from 1 to `max_length`.
        max_length: the places in a sequence.
        order: int64 [N], the rows in the order in which they are put.

    >>> best_fit(np.array([6, 5, 4, 3, 2]), 10, np.arange(5)).tolist()
    [0, 1, 0, 1, 1]
    """
    open_with: list[list[int]] = [[] for _ in range(max_length + 1)]  # sequences by places left
    left = 0  # bit n is set where a sequence has n places left
    n_sequences = 0
    which = []
    for length in lengths[order].tolist():
        fitting = left >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = open_with[room].pop()
            if not open_with[room]:
                left ^= 1 << room
        else:
            room, sequence = max_length, n_sequences
            n_sequences += 1
        which.append(sequence)
        if rest := room - length:
            open_with[rest].append(sequence)
            left |= 1 << rest
    found = np.empty(len(which), dtype=np.int64)
    found[order] = which
    return found


def _longest_first(lengths: Ids) -> Order:
    return np.argsort(-lengths, kind="stable")
