"""Length groups: batches of rows of about one length, in random order, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from lmkit.collating.grouping import grouped
from lmkit.train.feeding import TrainingRows


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
