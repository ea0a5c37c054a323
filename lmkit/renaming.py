"""Rename: a task reads the data's own columns where it says others.

The data keeps its names. `Renamed` stands between a record and any formatter: it hands over the
record under the task's names, and puts the data's names back into what it says of the record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import attrs

from lmkit.chat import Chat
from lmkit.errors import RecordError, TaskError, near
from lmkit.formatting import PLAIN, Dropping, Formatter, Record, Segment, training_texts
from lmkit.tokenizing import Dialect
from lmkit.validators import TEXT
from lmkit.values import value

T = TypeVar("T")


@value
class Rename:
    """One column under two names.

    Attributes:
        data: the data's name.
        task: the task's name.
    """

    data: str = attrs.field(validator=TEXT)
    task: str = attrs.field(validator=TEXT)


def _as_tuple(columns: Iterable[Rename]) -> tuple[Rename, ...]:
    return tuple(columns)


@value
class Renamed:
    """A formatter that reads other columns than it was written for; `Task.rename` makes it.

    Attributes:
        formatter: what is rendered.
        renames: which of its columns go by another name in the data.
    Raises:
        TaskError: it has no such column, or two of its columns would be read from one.
    """

    formatter: Formatter = attrs.field()
    renames: tuple[Rename, ...] = attrs.field(converter=_as_tuple)

    @renames.validator
    def _check(self, attribute: object, renames: tuple[Rename, ...]) -> None:
        _check_renames(self.formatter.columns, renames)

    def __str__(self) -> str:
        return f"{self.formatter} ({_words(self.renames)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The data's columns it may read when training."""
        return self._named(self.formatter.columns)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The data's columns it may read at inference."""
        return self._named(self.formatter.prompt_columns)

    @property
    def learns(self) -> bool:
        """Whether any of its text is to be learned."""
        return self.formatter.learns

    @property
    def delimited(self) -> bool:
        """Whether its text brings its own start and end tokens."""
        return self.formatter.delimited

    def segments(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the whole training text of a record."""
        return self._rendered(lambda own: self.formatter.segments(own, dialect), record)

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the text up to where the answer begins."""
        return self._rendered(lambda own: self.formatter.prompt(own, dialect), record)

    def unrolled(self, record: Record, dialect: Dialect = PLAIN) -> list[list[Segment]]:
        """Return each training text of a record."""
        return self._rendered(lambda own: training_texts(self.formatter, own, dialect), record)

    def dropped(self, record: Record, dialect: Dialect = PLAIN) -> list[str]:
        """Return the pieces of a record's text that none of its training texts has."""
        inner = self.formatter
        if not isinstance(inner, Dropping):
            return []
        return self._rendered(lambda own: inner.dropped(own, dialect), record)

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return the control tokens that end an answer."""
        return self.formatter.stop_tokens(dialect)

    def chat_template(self, dialect: Dialect) -> str | None:
        """Return the chat template that a run or a bundle must carry, or None."""
        return self.formatter.chat_template(dialect)

    def _named(self, columns: Iterable[str]) -> tuple[str, ...]:
        names = {rename.task: rename.data for rename in self.renames}
        return tuple(names.get(column, column) for column in columns)

    def _rendered(self, render: Callable[[Record], T], record: Record) -> T:
        """Render a record under the task's names; of what is wrong, speak with the data's."""
        moved = {name for rename in self.renames for name in (rename.data, rename.task)}
        own = {name: content for name, content in record.items() if name not in moved}
        own |= {
            rename.task: record[rename.data] for rename in self.renames if rename.data in record
        }
        try:
            return render(own)
        except RecordError as error:
            raise type(error)(error.where, self._problem(error.problem, record)) from error

    def _problem(self, problem: str, record: Record) -> str:
        """Put the data's name for a column into what is wrong with it."""
        for rename in self.renames:
            place = re.search(rf"(column '|\$\.){re.escape(rename.task)}(?!\w)", problem)
            if place is not None:
                said = problem[: place.end(1)] + rename.data + problem[place.end() :]
                if rename.data not in record:
                    have = ", ".join(map(str, record)) or "no columns"
                    said = f"column '{rename.data}' is missing; the record has {have}"
                return f"{said} (the task's column '{rename.task}' is read from '{rename.data}')"
        return problem


def renamed(formatter: Formatter, columns: Mapping[str, str]) -> Formatter:
    """Return a formatter that reads the data's columns where it says its own.

    Args:
        formatter: the formatter, which may read renamed columns already.
        columns: the data's name to the name that the formatter reads so far, as `datasets`'
            `rename_column` has it: old to new.
    Raises:
        TaskError: the formatter reads no such column; the text says which it does read.
    """
    if not columns:
        raise TaskError("rename() needs a column, as in rename(question='prompt')")
    renames = tuple(Rename(data, task) for data, task in columns.items())
    if not isinstance(formatter, Renamed):
        changed = tuple(rename for rename in renames if rename.data != rename.task)
        return Renamed(formatter, changed) if changed else formatter
    _check_renames(formatter.columns, renames)
    before = {rename.data: rename.task for rename in formatter.renames}
    now = {rename.data: before.pop(rename.task, rename.task) for rename in renames}
    return renamed(formatter.formatter, {**before, **now})


def bare(formatter: Formatter) -> Formatter:
    """Return the formatter itself, whatever its columns are called in the data."""
    return formatter.formatter if isinstance(formatter, Renamed) else formatter


def messages_column(formatter: Formatter) -> str | None:
    """Return the data's column that holds a list of messages; None if the formatter reads none."""
    inner = bare(formatter)
    if isinstance(inner, Chat) and not inner.turns:
        return formatter.columns[0]
    return None


def _check_renames(columns: tuple[str, ...], renames: tuple[Rename, ...]) -> None:
    """Refuse names that a task does not have, and two columns that would become one."""
    for rename in renames:
        if rename.task not in columns:
            raise TaskError(_unknown(rename, columns))
    data, task = [r.data for r in renames], [r.task for r in renames]
    twice = next((name for name in task if task.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"the task's column '{twice}' would be read from two columns of the data")
    for name in data:
        if data.count(name) > 1 or (name in columns and name not in task):
            raise TaskError(
                f"two of the task's columns would be read from the data's column '{name}'; "
                f"its columns are {', '.join(columns)}"
            )


def _unknown(rename: Rename, columns: tuple[str, ...]) -> str:
    told = (
        f"rename({rename.data}={rename.task!r}): the task has no column '{rename.task}'; "
        f"its columns are {', '.join(columns)}"
    )
    if rename.data in columns:
        return f"{told}. The data's name comes first: did you mean rename({rename.task}={rename.data!r})?"
    close = near(rename.task, columns)
    return f"{told}. Close to: {', '.join(close)}" if close else told


def _words(renames: Iterable[Rename]) -> str:
    return ", ".join(f"'{rename.task}' is read from '{rename.data}'" for rename in renames)
