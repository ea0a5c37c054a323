"""Measure: how long rows are, and what they come to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.collating.grouping import grouped
from lmkit.collating.packing import packing_fill
from lmkit.encoding import Encoded
from lmkit.family import Family
from lmkit.previewing import Histogram, Lengths, Totals

BATCH = 8  # rows of a batch whose padding is counted; what Trainer puts on a device
BARS = 10  # of a histogram, about
_LONG = 95  # the percentile behind which a last bar takes all that is left

Counts = NDArray[np.int64]


def _column() -> array[int]:
    return array("I")


@attrs.define
class Measures:
    """Takes rows down one by one, in twenty bytes each."""

    family: Family
    _read: array[int] = attrs.field(factory=_column)
    _target: array[int] = attrs.field(factory=_column)
    _learned: array[int] = attrs.field(factory=_column)
    _cut: array[int] = attrs.field(factory=_column)
    _record: array[int] = attrs.field(factory=_column)

    def add(self, row: Encoded, record: int) -> None:
        """Take a row down, and which record it is of."""
        self._read.append(len(row.input_ids))
        if self.family is Family.SEQ2SEQ:
            self._target.append(len(row.labels))
        self._learned.append(row.n_learned)
        self._cut.append(row.n_cut)
        self._record.append(record)

    def __len__(self) -> int:
        return len(self._read)

    def record_of(self, row: int) -> tuple[int, int]:
        """Return which record a row is of, and which of that record's rows it is."""
        record = self._record[row]
        first = row
        while first and self._record[first - 1] == record:
            first -= 1
        return record, row - first

    @property
    def rows(self) -> Counts:
        """Each row's tokens, int64 [N]; of seq2seq rows the source's and the target's."""
        read = _counts(self._read)
        return read + _counts(self._target) if self._target else read

    def extremes(self) -> dict[str, int]:
        """Return the longest row, the shortest, and the one that lost most, if any did."""
        rows, cut = self.rows, _counts(self._cut)
        found = {"longest": int((rows + cut).argmax()), "shortest": int(rows.argmin())}
        return {**found, "most cut": int(cut.argmax())} if cut.any() else found

    def lengths(self) -> tuple[Lengths, ...]:
        """Return how long rows and their parts are."""
        if self.family is Family.SEQ2SEQ:
            parts = {"source": self._read, "target": self._target}
        else:
            parts = {"row": self._read, "learned": self._learned}
        return tuple(lengths(name, _counts(part)) for name, part in parts.items())

    def totals(
        self, *, records: int, dropped: dict[str, int], max_length: int, packs: bool
    ) -> Totals:
        """Return the sums; of rows that can be packed, how full they would be."""
        cut = _counts(self._cut)
        return Totals(
            records=records,
            rows=len(self),
            dropped=dropped,
            tokens=int(self.rows.sum()),
            learned=int(_counts(self._learned).sum()),
            cut_rows=int((cut > 0).sum()),
            cut_tokens=int(cut.sum()),
            max_length=max_length,
            packing_fill=packing_fill(self.rows, max_length) if packs else None,
            padding_share=padding_share([p for p in (self._read, self._target) if p]),
        )


def _counts(column: array[int]) -> Counts:
    return np.frombuffer(column, dtype=np.uint32).astype(np.int64)


def padding_share(parts: Sequence[array[int]]) -> float:
    """Return the share of places that hold padding in batches of `BATCH` rows of like length.

    Args:
        parts: each row's number of tokens in one of a batch's arrays; rows are grouped by the first.

    >>> padding_share([array("I", [4, 2])])
    0.25
    """
    order = grouped(_counts(parts[0]), BATCH, np.random.default_rng(0)) if parts else np.array([])
    starts = np.arange(0, len(order), BATCH)
    if not len(starts):
        return 0.0
    rows = [_counts(part)[order] for part in parts]
    sizes = np.diff([*starts, len(order)])
    places = sum(int((np.maximum.reduceat(part, starts) * sizes).sum()) for part in rows)
    return 1 - sum(int(part.sum()) for part in rows) / places if places else 0.0


def lengths(name: str, counts: Counts) -> Lengths:
    """Return how long some rows are.

    Args:
        name: what was measured.
        counts: int64 [N], the numbers of tokens.
    """
    ordered = np.sort(counts)
    return Lengths(
        name=name,
        shortest=int(ordered[0]),
        median=int(ordered[(len(ordered) - 1) // 2]),
        p95=_p95(ordered),
        longest=int(ordered[-1]),
        mean=float(ordered.mean()),
        histogram=histogram(ordered),
    )


def _p95(ordered: Counts) -> int:
    return int(ordered[max(0, math.ceil(len(ordered) * _LONG / 100) - 1)])


def histogram(ordered: Counts) -> Histogram:
    """Return about `BARS` bars of one round width, and a last one for the few that are far longer.

    >>> histogram(np.array([3, 4, 12, 25]))
    Histogram(edges=(3, 6, 9, 12, 15, 18, 21, 24, 27), counts=(2, 0, 0, 1, 0, 0, 0, 1))
    """
    shortest, longest, usual = int(ordered[0]), int(ordered[-1]), _p95(ordered)
    width = _round((usual - shortest + 1) / BARS)
    start = shortest // width * width
    end = start + width * math.ceil((usual + 1 - start) / width)
    edges = list(range(start, end + 1, width))
    if longest >= end:
        spare = longest + 1 - end
        edges += [end + width] if spare <= width else [longest + 1]
    counts, _ = np.histogram(ordered, bins=[*edges[:-1], edges[-1] - 0.5])
    return Histogram(edges=tuple(edges), counts=tuple(int(count) for count in counts))


def _round(width: float) -> int:
    """Return the least of 1, 2, 3, 5, 10, 20, ... that is not below a width."""
    power = 1
    while True:
        for step in (1, 2, 3, 5):
            if step * power >= width:
                return step * power
        power *= 10
