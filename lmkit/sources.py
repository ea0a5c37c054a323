"""Sources: where records are, read as often as needed and never held in memory whole.

Records that are in memory already stay there, as do those of a stream, which can be read but once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.errors import RecordError
from lmkit.records import Data, Row, count, iterate, name_of
from lmkit.transforms import Transform, transformed_row

AT_ONCE = 512  # rows read in one pass where they are wanted in another order than the file's

T = TypeVar("T")

Positions = NDArray[np.int64]


@attrs.frozen
class Source:
    """Data that can be read again and again.

    A row's position is its place among all rows, the bad ones too.

    Attributes:
        name: what to call it in a message.
        path: the file, folder or hub name; None for records in memory.
        whole: whether a .txt file is one record.
        held: the rows of what is in memory, with the errors of bad ones in their places.
    """

    name: str
    path: str | None = None
    whole: bool = False
    held: Sequence[Row | RecordError] = attrs.field(default=(), repr=False)

    @classmethod
    def open(cls, data: Data, *, whole: bool = False) -> Source:
        """Return a source, without reading what need not be in memory.

        Raises:
            RecordError: it is missing, or of no known kind.
        """
        rows = iterate(data, whole=whole)
        if isinstance(data, (str, Path)) and str(data) != "-":
            return cls(name_of(data), str(data), whole)
        return cls(name_of(data), None, whole, list(rows))

    @property
    def in_memory(self) -> bool:
        """Whether its rows are in memory."""
        return self.path is None

    def __len__(self) -> int:
        """Return how many rows it has, bad ones too."""
        return len(self.held) if self.path is None else count(self.path, whole=self.whole)

    def rows(self, start: int = 0) -> Iterator[Row | RecordError]:
        """Yield the rows from a position on, and the errors of bad ones."""
        if self.path is None:
            return itertools.islice(iter(self.held), start, None)
        return iterate(self.path, whole=self.whole, start=start)


class SourceRows(Sequence[Row]):
    """Some rows of a source, as transforms leave them, each read when it is asked for.

    In the source's own order they are read in one pass, in any other some at a time.

    Args:
        source: where they are.
        positions: which, int64 [N]; rows that are not bad, and that the transforms keep.
        transforms: what prepares them.
    """

    def __init__(
        self, source: Source, positions: Positions, transforms: Sequence[Transform] = ()
    ) -> None:
        self._source = source
        self._positions = positions
        self._transforms = tuple(transforms)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Row]:
        ordered = bool((np.diff(self._positions) > 0).all())
        step = len(self) if ordered else AT_ONCE
        for start in range(0, len(self), max(1, step)):
            part = self._positions[start : start + step]
            yield from self._pass(part) if ordered else self._some(part)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> SourceRows: ...

    def __getitem__(self, index: int | slice) -> Row | SourceRows:
        if isinstance(index, slice):
            return SourceRows(self._source, self._positions[index], self._transforms)
        return next(self._pass(self._positions[index : index + 1 or None]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def mapped(self, make: Callable[[Row], T]) -> list[T]:
        """Return what is made of each row, all of which are read in one pass."""
        order = np.argsort(self._positions, kind="stable")
        made = (make(row) for row in self._pass(self._positions[order]))
        found = dict(zip(order.tolist(), made, strict=True))
        return [found[index] for index in range(len(self))]

    def _some(self, positions: Positions) -> Iterator[Row]:
        """Yield rows in any order, read in one pass."""
        order = np.argsort(positions, kind="stable")
        found = dict(zip(positions[order].tolist(), self._pass(positions[order]), strict=True))
        return (found[position] for position in positions.tolist())

    def _pass(self, positions: Positions) -> Iterator[Row]:
        """Yield rows in the source's order."""
        wanted = iter(positions.tolist())
        position = next(wanted, None)
        if position is None:
            return
        for at, row in enumerate(self._source.rows(position), start=position):
            if at != position:
                continue
            found = row if isinstance(row, RecordError) else transformed_row(self._transforms, row)
            if not isinstance(found, Row):
                raise RecordError(self._source.name, "has changed since it was prepared")
            yield found
            position = next(wanted, None)
            if position is None:
                return
