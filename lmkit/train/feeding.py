"""Feed: encoded rows, as torch's data loader asks for them in one epoch after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

from lmkit.collating import BatchFeed, Feed, RowFeed, Schedule
from lmkit.collating.chance import row_keys
from lmkit.encoding import IGNORE, Encoded, Ids, lengths_of

BLANK = -1  # the index of no row: one is read in its place, and nothing of it is learned
ROWS_AT_ONCE = 4096  # drawn together to be measured, which bounds what they take in memory


class TrainingRows:
    """A data set for a data loader: each row is drawn with the run's seed, the epoch and its index.

    So a row comes out the same whichever process draws it, and in a run that was resumed.

    Args:
        feed: what the rows are drawn from.
        seed: the run's.
    """

    def __init__(self, feed: Feed | Schedule, seed: int) -> None:
        self._feed = feed
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._feed)

    def __getitem__(self, index: int) -> Encoded:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Encoded]:
        """Return the rows of a batch; torch's data loader asks for them together."""
        if BLANK in indices:
            rows = self.__getitems__([max(index, 0) for index in indices])
            return [
                blank(row) if index == BLANK else row
                for index, row in zip(indices, rows, strict=True)
            ]
        feed = self._feed
        if isinstance(feed, Schedule):
            feed = feed.epoch(self.epoch, self._seed)
        if isinstance(feed, BatchFeed):
            return feed.draw_all(indices, row_keys(self._seed, self.epoch, indices))
        return [
            feed.draw(index, np.random.default_rng([self._seed, self.epoch, index]))
            for index in indices
        ]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def lengths(self) -> Ids:
        """Every row's length in tokens, as it is in this epoch, int64 [N].

        A seq2seq row's is that of its source and its target together.
        """
        if isinstance(self._feed, RowFeed):
            return self._feed.lengths
        found: list[Ids] = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(self), ROWS_AT_ONCE):
            part = self.__getitems__(range(start, min(start + ROWS_AT_ONCE, len(self))))
            found.append(lengths_of(part))
        return np.concatenate(found)


class MeasuredRows:
    """A data set that is measured: the same rows each time."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Encoded:
        return blank(self._rows[0]) if index == BLANK else self._rows[index]


def blank(row: Encoded) -> Encoded:
    """Return a row of which nothing is learned."""
    return attrs.evolve(row, labels=np.full_like(row.labels, IGNORE))


class Filled(Sampler):  # type: ignore[misc]
    """An order of rows, filled up with blank ones, so that it parts evenly among processes.

    accelerate would repeat rows instead, which then weigh double, in a loss that is measured too.

    Args:
        order: the order that one process would take.
        size: how many rows all processes read in a step together.
    """

    def __init__(self, order: Any, size: int) -> None:
        self._order = order
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._order) // self._size) * self._size

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from [BLANK] * (len(self) - len(self._order))

    def set_epoch(self, epoch: int) -> None:
        """Hand the epoch on to an order that is drawn by it."""
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)


class CountEpochs(TrainerCallback):  # type: ignore[misc]
    """Tells the rows which epoch it is, before its data loader starts."""

    def __init__(self, rows: TrainingRows) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count; a resumed run begins inside of an epoch, at a broken number."""
        self._rows.epoch = int(round(state.epoch or 0, 6))
