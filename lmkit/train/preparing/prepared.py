"""Prepared rows: ids and labels in Arrow files, mapped into memory and read row by row.

A learned token's label is its own id, so labels are kept as the edges of what is learned wherever
that holds; a seq2seq row's target is kept as it is. Ids are int32 in the file and int64 when read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import IGNORE, Encoded, Ids, lengths_of
from lmkit.family import Family
from lmkit.train.extra import datasets

if TYPE_CHECKING:
    import pyarrow

Counts = NDArray[np.int64]
# Rows that are read whole to tell whether rows are the same; it takes 10 us each.
MOST_READ = 20_000


def table_of(rows: Sequence[Encoded], positions: Sequence[int]) -> pyarrow.Table:
    """Return rows as an Arrow table.

    Args:
        rows: N rows of one family.
        positions: the position in the data, for each, of the record that it is a text of.
    """
    import pyarrow as pa

    ids, labels = [row.input_ids for row in rows], [row.labels for row in rows]
    targets = any(row.family is Family.SEQ2SEQ for row in rows)
    edges = None if targets else _edges(ids, labels)
    none = [np.zeros(0, dtype=np.int64)] * len(rows)
    return pa.table(
        {
            "input_ids": _lists(ids),
            "edges": _lists(none if edges is None else edges),
            "labels": _lists(labels if edges is None else none),
            "n_cut": pa.array([row.n_cut for row in rows], pa.int32()),
            "n_cut_learned": pa.array([row.n_cut_learned for row in rows], pa.int32()),
            "n_learned": pa.array([row.n_learned for row in rows], pa.int32()),
            "position": pa.array(positions, pa.int64()),
        },
    )


def schema() -> pyarrow.Schema:
    """Return the columns that prepared rows have."""
    return table_of([], []).schema


def _lists(parts: Sequence[Ids]) -> Any:
    import pyarrow as pa

    offsets = np.zeros(len(parts) + 1, dtype=np.int32)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    flat = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _edges(ids: Sequence[Ids], labels: Sequence[Ids]) -> list[Ids] | None:
    """Return where learning starts and stops in each row, or None if labels are other tokens.

    >>> _edges([np.array([5, 6, 7, 8])], [np.array([-100, 6, 7, -100])])
    [array([1, 3])]
    """
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    if not len(ids) or any(len(a) != len(b) for a, b in zip(ids, labels, strict=True)):
        return None
    flat_ids, flat_labels = np.concatenate(ids), np.concatenate(labels)
    learned = flat_labels != IGNORE
    if not np.array_equal(flat_ids[learned], flat_labels[learned]):
        return None
    # A cell that is never learned stands behind each row, so that no stretch crosses a row's edge.
    ends = np.cumsum(lengths)
    apart = np.insert(learned, ends, False)
    edges = np.flatnonzero(np.diff(apart, prepend=False))
    starts = np.concatenate([[0], (ends + np.arange(1, len(ends) + 1))[:-1]])
    parts = np.split(edges, np.searchsorted(edges, starts[1:]))
    return [part - start for part, start in zip(parts, starts, strict=True)]


class _Lists:
    """One column of lists in one record batch."""

    def __init__(self, column: Any) -> None:
        self._offsets = column.offsets.to_numpy()
        self._cells = column.values.to_numpy(zero_copy_only=True)

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        cells: NDArray[np.int32] = self._cells[self._offsets[index] : self._offsets[index + 1]]
        return cells

    @property
    def lengths(self) -> NDArray[np.int32]:
        found: NDArray[np.int32] = np.diff(self._offsets)
        return found


class ArrowRows(Sequence[Encoded]):
    """Rows in Arrow files, each read when it is asked for.

    Args:
        files: Arrow streams that `datasets` wrote, in order.
        family: how the model reads a row.
    """

    def __init__(self, files: Iterable[Path], family: Family) -> None:
        tables = [datasets().Dataset.from_file(str(file)).data.table for file in files]
        self._batches = [batch for table in tables for batch in table.to_batches() if len(batch)]
        self._family = family
        self._starts = np.cumsum([0, *map(len, self._batches)])
        self._lists: dict[int, tuple[_Lists, _Lists, _Lists]] = {}
        self._counts: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> ChosenRows: ...

    def __getitem__(self, index: int | slice) -> Encoded | ChosenRows:
        if isinstance(index, slice):
            return ChosenRows(self, np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        at = index - int(self._starts[batch])
        ids, edges, labels = (column[at] for column in self._columns(batch))
        input_ids = ids.astype(np.int64)
        n_cut, n_cut_learned = self._cut(batch)
        whole = len(labels) or self._family is Family.SEQ2SEQ
        return Encoded(
            input_ids,
            labels.astype(np.int64) if whole else _labels(input_ids, edges),
            int(n_cut[at]),
            self._family,
            n_cut_learned=int(n_cut_learned[at]),
        )

    @cached_property
    def lengths(self) -> Counts:
        """Every row's length in tokens, int64 [N]; see `lengths_of`."""
        found = [np.zeros(0, dtype=np.int64)]
        for batch in range(len(self._batches)):
            ids, _, labels = self._columns(batch)
            targets = labels.lengths if self._family is Family.SEQ2SEQ else 0
            found.append(ids.lengths + targets)
        return np.concatenate(found)

    def learnable(self) -> ChosenRows:
        """Return the rows in which something is learned."""
        return ChosenRows(self, np.flatnonzero(self.counts("n_learned")))

    def counts(self, name: str) -> Counts:
        """Return a column of whole numbers, int64 [N]: `n_cut`, `n_learned`, `position`, ..."""
        found = [batch[name].to_numpy() for batch in self._batches]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    def _cut(self, batch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        if batch not in self._counts:
            found = self._batches[batch]
            self._counts[batch] = found["n_cut"].to_numpy(), found["n_cut_learned"].to_numpy()
        return self._counts[batch]

    def _columns(self, batch: int) -> tuple[_Lists, _Lists, _Lists]:
        if batch not in self._lists:
            found = self._batches[batch]
            self._lists[batch] = (
                _Lists(found["input_ids"]),
                _Lists(found["edges"]),
                _Lists(found["labels"]),
            )
        return self._lists[batch]


class HeldRows(Sequence[Encoded]):
    """Rows in memory, with the same about them as `ArrowRows` tells.

    Args:
        rows: the rows.
        positions: the position in the data, for each, of the record that it is a text of.
    """

    def __init__(self, rows: Sequence[Encoded], positions: Sequence[int]) -> None:
        self._rows = rows
        self._positions = positions

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...

    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        return self._rows[index]

    @property
    def lengths(self) -> Counts:
        """Every row's length in tokens, int64 [N]; see `lengths_of`."""
        return lengths_of(self._rows)

    def learnable(self) -> ChosenRows:
        """Return the rows in which something is learned."""
        return ChosenRows(self, np.flatnonzero(self.counts("n_learned")))

    def counts(self, name: str) -> Counts:
        """Return whole numbers about the rows, int64 [N]; see `ArrowRows`."""
        if name == "position":
            return np.array(self._positions, dtype=np.int64)
        return np.array([getattr(row, name) for row in self._rows], dtype=np.int64)


class ChosenRows(Sequence[Encoded]):
    """Some of prepared rows, in another order perhaps.

    Args:
        rows: the rows.
        chosen: which of them, int64 [N].
    """

    def __init__(self, rows: ArrowRows | HeldRows, chosen: Counts) -> None:
        self._rows = rows
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> ChosenRows: ...

    def __getitem__(self, index: int | slice) -> Encoded | ChosenRows:
        if isinstance(index, slice):
            return ChosenRows(self._rows, self._chosen[index])
        return self._rows[int(self._chosen[index])]

    @property
    def lengths(self) -> Counts:
        """Every row's length in tokens, int64 [N]; see `lengths_of`."""
        return self._rows.lengths[self._chosen]

    def learnable(self) -> ChosenRows:
        """Return the rows in which something is learned."""
        return ChosenRows(self._rows, self._chosen[self.counts("n_learned") > 0])

    def counts(self, name: str) -> Counts:
        """Return whole numbers about the rows, int64 [N]; see `ArrowRows`."""
        return self._rows.counts(name)[self._chosen]


def of_positions(rows: ArrowRows | HeldRows, wanted: Counts) -> ChosenRows:
    """Return the rows of some records, in those records' order.

    Args:
        rows: in the data's order.
        wanted: the records' positions in the data; one may have no row, or several.
    """
    positions = rows.counts("position")
    first = np.searchsorted(positions, wanted, side="left")
    n_each = np.searchsorted(positions, wanted, side="right") - first
    within = np.arange(n_each.sum()) - np.repeat(np.cumsum(n_each) - n_each, n_each)
    return ChosenRows(rows, np.repeat(first, n_each) + within)


def counts_of(rows: Sequence[Encoded], name: str) -> Counts:
    """Return whole numbers about any rows, int64 [N], such as their `n_learned`."""
    if isinstance(rows, (ArrowRows, HeldRows, ChosenRows)):
        return rows.counts(name)
    return np.array([getattr(row, name) for row in rows], dtype=np.int64)


def content_of(rows: Sequence[Encoded]) -> str:
    """Return a sha256 of rows: of each one's length and learned tokens, and of many whole."""
    digest = hashlib.sha256()
    for counts in (lengths_of(rows), counts_of(rows, "n_learned")):
        digest.update(counts.astype("<i8").tobytes())
    for at in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_READ), dtype=np.int64)):
        row = rows[int(at)]
        for ids in (row.input_ids, row.labels):
            digest.update(ids.astype("<i8").tobytes())
    return digest.hexdigest()


def _labels(input_ids: Ids, edges: NDArray[np.int32]) -> Ids:
    """Return the labels of a row whose learned tokens stand between pairs of edges."""
    labels = np.full_like(input_ids, IGNORE)
    for start, end in edges.reshape(-1, 2).tolist():
        labels[start:end] = input_ids[start:end]
    return labels
