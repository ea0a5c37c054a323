"""Group rows by length, so that little of a batch is padding: the order in which training takes them."""

from __future__ import annotations

import numpy as np

from lmkit.encoding import Ids

POOL = 16  # batches whose rows are sorted together: more leave less padding, and less to chance


def grouped(lengths: Ids, size: int, rng: np.random.Generator) -> Ids:
    """Return an order of rows, int64 [N], of which each `size` are of about one length.

    A pool is at most a quarter of all rows, as in transformers, so that rows of one length are not
    always in one batch. Rows that fill no batch come last.
    """
    order: Ids = rng.permutation(len(lengths))
    whole = len(order) - len(order) % size
    pool = size * max(1, min(POOL, len(order) // (4 * size)))
    head = order[:whole]
    by_pool = np.lexsort((lengths[head], np.arange(whole) // pool))
    batches = rng.permutation(head[by_pool].reshape(-1, size))
    return np.concatenate([batches.reshape(-1), order[whole:]])
