"""Read records as a task wants them: a text in lines or whole, prepared by the task's transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmkit.collating import Stream
from lmkit.errors import RecordError
from lmkit.records import Data, OnBadRow, Row, name_of, nothing_in, read
from lmkit.sources import Source
from lmkit.task import Task
from lmkit.transforms import transformed, transformed_row


def read_raw(task: Task, data: Data, *, on_bad_row: OnBadRow | None = None) -> list[Row]:
    """Return the records as they stand; a collator to which all is one text gets a .txt file whole."""
    return read(data, whole=isinstance(task.collator, Stream), on_bad_row=on_bad_row)


def read_for(task: Task, data: Data, *, on_bad_row: OnBadRow | None = None) -> Sequence[Row]:
    """Return the records as the task's transforms leave them.

    Args:
        task: what they are for.
        data: where they are.
        on_bad_row: what is told of each row that cannot be read, and of each on which a transform
            fails; they are left out. Without it they are gathered and raised together.
    Raises:
        RecordError: the data is missing or damaged, a transform fails, or nothing is left.
    """
    rows = read_raw(task, data, on_bad_row=on_bad_row)
    return transformed(task.transforms, rows, name=name_of(data), on_bad_row=on_bad_row)


def stream_for(task: Task, source: Source, on_bad_row: OnBadRow) -> Iterator[Row]:
    """Yield the records one after another, as the task's transforms leave them.

    Args:
        task: what they are for.
        source: where they are.
        on_bad_row: what is told of each row that is left out because it cannot be read or because a
            transform fails on it.
    Raises:
        RecordError: nothing is left.
    """
    left = [0] * len(task.transforms)
    n_read = 0
    first: RecordError | None = None
    for row in source.rows():
        try:
            found = (
                row if isinstance(row, RecordError) else transformed_row(task.transforms, row, left)
            )
        except RecordError as error:
            found = error
        if isinstance(found, RecordError):
            first = first or found
            on_bad_row(found)
            continue
        n_read += 1
        if found is not None:
            yield found
    if left and not all(left) and n_read:
        transform = task.transforms[left.index(0)]
        raise RecordError(source.name, f"{transform} leaves out every record")
    if not n_read:
        raise nothing_in(source.name, first)
