"""Feed: encoded rows, as torch's data loader asks for them in one epoch after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from lmkit.collating import Feed, Schedule
from lmkit.encoding import Encoded


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

    @property
    def lengths(self) -> list[int]:
        """Every row's length in tokens, as it is in this epoch."""
        return [len(self[index]) for index in range(len(self))]

    def __getitem__(self, index: int) -> Encoded:
        feed = self._feed.epoch(self.epoch) if isinstance(self._feed, Schedule) else self._feed
        return feed.draw(index, np.random.default_rng([self._seed, self.epoch, index]))


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
