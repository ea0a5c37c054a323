"""Read records as a task wants them: a text in lines or whole, prepared by the task's transforms."""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.collating import Stream
from lmkit.records import Data, Row, name_of, read
from lmkit.task import Task
from lmkit.transforms import transformed


def read_raw(task: Task, data: Data) -> list[Row]:
    """Return the records as they stand; a collator to which all is one text gets a .txt file whole."""
    return read(data, whole=isinstance(task.collator, Stream))


def read_for(task: Task, data: Data) -> Sequence[Row]:
    """Return the records as the task's transforms leave them.

    Raises:
        RecordError: the data is missing or damaged, a transform fails, or nothing is left.
    """
    return transformed(task.transforms, read_raw(task, data), name=name_of(data))
