"""Read records as a task wants them: a text in lines or whole, prepared by the task's transforms."""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.collating import Stream
from lmkit.records import Data, OnBadRow, Row, name_of, read
from lmkit.task import Task
from lmkit.transforms import transformed


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
