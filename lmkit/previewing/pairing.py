"""Pair: each record with the rows that it became."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from lmkit.collating import Stream
from lmkit.encoding import Encoded, Ids, each_encoded
from lmkit.errors import RecordError
from lmkit.formatting import Record
from lmkit.records import OnBadRow, Row
from lmkit.sources import Source, SourceRows
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.transforms import transformed_row

Pair = tuple[int, Record, Sequence[Encoded]]


class Records:
    """A source's records as transforms leave them, read once in order, and then again by place.

    Args:
        task: whose transforms, and whether all records are one text.
        source: where the records are.
        on_bad_row: what is told of those that cannot be read, which are left out.
        limit: how many to read, or None for all.
    """

    def __init__(
        self, task: Task, source: Source, on_bad_row: OnBadRow, limit: int | None = None
    ) -> None:
        self.n_read = 0
        self._task = task
        self._source = source
        self._on_bad_row = on_bad_row
        self._limit = limit
        self._positions = array("q")

    def __len__(self) -> int:
        """Return how many there are at most."""
        count = len(self._source)
        return count if self._limit is None else min(count, self._limit)

    def __iter__(self) -> Iterator[Row]:
        for position, row in enumerate(islice(self._source.rows(), self._limit)):
            self.n_read += 1
            try:
                if isinstance(row, RecordError):
                    raise row
                found = transformed_row(self._task.transforms, row)
            except RecordError as error:
                self._on_bad_row(error)
                continue
            if found is not None:
                self._positions.append(position)
                yield found

    def __getitem__(self, index: int) -> Row:
        """Return one that was read."""
        positions = np.frombuffer(self._positions, dtype=np.int64)
        return SourceRows(self._source, positions, self._task.transforms)[index]


def encoded_pairs(
    task: Task, records: Iterable[Record], tokenizer: Tokenizer, on_bad_row: OnBadRow
) -> Iterator[Pair]:
    """Yield each record's place, the record, and the rows that it becomes; unfit ones are told of."""
    for place, (record, made) in enumerate(each_encoded(task, records, tokenizer)):
        if isinstance(made, RecordError):
            on_bad_row(made)
        else:
            yield place, record, made


def known_pairs(
    task: Task, records: Sequence[Record], rows: Sequence[Encoded], positions: Ids
) -> Iterator[Pair]:
    """Yield the same for rows that are encoded already; of one text, with its first record.

    Args:
        task: what the rows are for.
        records: those of which there is a row.
        rows: N rows, in the records' order.
        positions: int64 [N], alike for rows of one record.
    """
    if isinstance(task.collator, Stream):
        yield 0, records[0], rows
        return
    edges = np.flatnonzero(np.diff(positions, prepend=-1, append=-1)).tolist()
    for place, (record, first, end) in enumerate(zip(records, edges, edges[1:], strict=False)):
        yield place, record, [rows[at] for at in range(first, end)]
