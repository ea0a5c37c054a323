"""Length groups: batches of rows of about one length, in random order, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from lmkit.encoding import Ids
from lmkit.train.feeding import TrainingRows

POOL = 16  # batches whose rows are sorted together: more leave less padding, and less to chance


class LengthGroups(Sampler):  # type: ignore[misc]
    """An order of rows in which batches hold rows of like length.

    Rows are shuffled and dealt into pools of some batches; those of a pool are sorted by length and
    cut into batches; then all batches are shuffled. So long batches come at any time, other than in
    transformers' LengthGroupedSampler, where each pool begins with its longest. The order depends on
    the run's seed and the epoch alone.

    Args:
        rows: the rows.
        size: how many rows are in a batch, over all processes.
    """

    def __init__(self, rows: TrainingRows, size: int) -> None:
        self._rows = rows
        self._size = size

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._rows.seed, self._rows.epoch])
        yield from grouped(self._rows.lengths, self._size, rng).tolist()


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
