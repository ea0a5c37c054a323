"""Rows that are there twice: among those that are learned, and among those that are measured."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Encoded
from lmkit.previewing import Finding
from lmkit.previewing.checks import Check, Seen, Setting


def duplicate_rows(setting: Setting) -> Check | None:
    """Return the check for rows that are the same tokens as an earlier one."""
    return None if setting.streams else Repeats(setting)


def identity(row: Encoded) -> int:
    """Return a number of eight bytes that rows of the same ids and labels share."""
    return hash((row.input_ids.tobytes(), row.labels.tobytes()))


@attrs.define
class Repeats:
    """Keeps eight bytes of each row."""

    setting: Setting
    of_records: bool = False
    _rows: array[int] = attrs.field(factory=lambda: array("q"))

    def see(self, seen: Seen) -> None:
        """Take a row down."""
        self._rows.append(identity(seen.row))

    @property
    def identities(self) -> NDArray[np.int64]:
        """Each row's, int64 [N]."""
        return np.frombuffer(self._rows, dtype=np.int64)

    @property
    def example(self) -> int | None:
        """The first row that repeats another one."""
        found = self.identities
        _, firsts = np.unique(found, return_index=True)
        again = np.ones(len(found), dtype=bool)
        again[firsts] = False
        return int(np.argmax(again)) if again.any() else None

    def finding(self) -> Finding | None:
        """Return what was found, or None."""
        count = len(self._rows) - len(np.unique(self.identities))
        if not count:
            return None
        return Finding(
            name="duplicate-rows",
            level="warning",
            text="the row is the same tokens as an earlier one, so it counts twice",
            remedy="leave repeated records out, if that is not meant",
            count=count,
            of=len(self._rows),
        )


def rows_in_eval(
    learned: NDArray[np.int64], measured: Iterable[tuple[str, Encoded]]
) -> Finding | None:
    """Return what rows that are measured on are also learned from.

    It is no error: to measure on what is learned can be meant.

    Args:
        learned: the identities of the rows that are learned, int64 [N].
        measured: the other rows, each with its record's place.
    """
    known = np.unique(learned)
    count = of = 0
    first = ""
    for where, row in measured:
        of += 1
        mark = identity(row)
        at = int(np.searchsorted(known, mark))
        if at < len(known) and known[at] == mark:
            count += 1
            first = first or where
    if not count:
        return None
    return Finding(
        name="train-rows-in-eval",
        level="warning",
        text="the row is measured on and also learned from, so the figures flatter the model",
        remedy="take it out of one of the two, or hold rows out with --eval-fraction",
        count=count,
        of=of,
        where=first,
    )
