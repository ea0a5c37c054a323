"""Feed: encoded rows, as torch's data loader asks for them in one epoch after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from lmkit.collating import BatchFeed, Feed, RowFeed, Schedule
from lmkit.collating.chance import row_keys
from lmkit.encoding import Encoded, Ids, lengths_of

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
        return self._rows[index]


class CountEpochs(TrainerCallback):  # type: ignore[misc]
    """Tells the rows which epoch it is, before its data loader starts."""

    def __init__(self, rows: TrainingRows) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count; a resumed run begins inside of an epoch, at a broken number."""
        self._rows.epoch = int(round(state.epoch or 0, 6))
