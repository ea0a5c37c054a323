"""Check: what is wrong with rows and records, each found in one pass over them.

A check is given every row once, or every record, and says in the end what it found. It keeps counts,
one example, and at most eight bytes a row, so that a million rows are no trouble.

Each family of findings has a module here: `endings`, `learning`, `prompts`, `texts`, `repeats`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import attrs
import numpy as np

from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import IGNORE, Encoded, Ids
from lmkit.errors import RecordError, TemplateError
from lmkit.family import Family
from lmkit.formatting import Record
from lmkit.previewing import Finding
from lmkit.renaming import messages_column
from lmkit.showing import shortened
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

MOST_CELLS = 72  # of an excerpt
_PART = "\ufffd"  # what a part of a character is decoded to
_TAIL = 16  # tokens of a row's end, or its beginning, that an excerpt has


@attrs.frozen(slots=False)
class Setting:
    """What rows are checked for.

    Attributes:
        task: the task, fitted to the model.
        tokenizer: the model's.
        stride: the checks that render or encode a record once more look at each such one only.
    """

    task: Task
    tokenizer: Tokenizer
    stride: int = 1

    @cached_property
    def streams(self) -> bool:
        """Whether all records are one text."""
        return isinstance(self.task.collator, Stream)

    @property
    def longer(self) -> str:
        """What to do so that rows may be longer."""
        if self.task.family is Family.SEQ2SEQ:
            return "raise max_source_length or max_target_length in the task's Seq2SeqCollator"
        return "raise --max-length as far as the model reads"

    def excerpt(self, ids: Ids) -> str:
        """Return a few tokens' text on one line, control tokens among it."""
        return shortened(self._text(ids), MOST_CELLS)

    def beginning(self, ids: Ids) -> str:
        """Return how ids begin, up to the last whole character."""
        return shortened(self._text(ids[:_TAIL]).rstrip(_PART), MOST_CELLS)

    def ending(self, ids: Ids) -> str:
        """Return how ids end, from the first whole character on."""
        return shortened(self._text(ids[-_TAIL:]).lstrip(_PART), MOST_CELLS)

    def _text(self, ids: Ids) -> str:
        return self.tokenizer.decode(ids.tolist(), skip_control=False)


class Seen:
    """One row with its record.

    Args:
        setting: what it is checked for.
        record: the record.
        row: its row, or the last of its rows.
        where: the record's place.
        index: the record's place among the records.
        row_index: the row's among the rows.
        last: whether the record has no further row.
    """

    def __init__(
        self,
        setting: Setting,
        record: Record,
        row: Encoded,
        *,
        where: str,
        index: int,
        row_index: int,
        last: bool,
    ) -> None:
        self.setting = setting
        self.record = record
        self.row = row
        self.where = where
        self.index = index
        self.row_index = row_index
        self.last = last

    @cached_property
    def learned(self) -> Ids:
        """The ids that are learned, int64 [L]."""
        found: Ids = self.row.labels[self.row.labels != IGNORE]
        return found

    @cached_property
    def prompt(self) -> Ids | str | None:
        """The record's prompt, int64 [P]; why it has none; or None where nothing is to be asked."""
        task, tokenizer = cutting(self.setting.task), self.setting.tokenizer
        record = asked_record(task, self.record)
        try:
            segments = task.formatter.prompt(record, tokenizer.dialect)
            return task.collator.prompt(segments, tokenizer, delimited=task.formatter.delimited)
        except TemplateError as error:
            return str(error)
        except RecordError:
            return None


def asked_record(task: Task, record: Record) -> Record:
    """Return a record of which the prompt is where its last answer begins.

    What follows a conversation's last answer would itself be answered.
    """
    column = messages_column(task.formatter)
    if column is None:
        return record
    messages = list(record[column])
    while messages and messages[-1].get("role") != "assistant":
        messages.pop()
    return {**record, column: messages}


class Check(Protocol):
    """What looks at rows, or at records, and says what it found."""

    of_records: bool

    def see(self, seen: Seen) -> None:
        """Look at a row; of records, at a record's last row."""

    def finding(self) -> Finding | None:
        """Return what was found, or None."""

    @property
    def example(self) -> int | None:
        """The row in which it was found first."""


def always(level: str) -> Callable[[float], str]:
    """Return a level that does not depend on the share of rows."""
    return lambda share: level


def above(share: float, level: str, otherwise: str) -> Callable[[float], str]:
    """Return a level that depends on the share of rows in which something was found."""
    return lambda found: level if found > share else otherwise


@attrs.define(kw_only=True)
class Tally:
    """A check that looks at each row alone: it counts those that are so, and keeps the first.

    Attributes:
        name: the finding's name.
        text: what was found.
        remedy: what to do.
        level: of a share of rows, the level.
        applies: whether a row is so.
        excerpt: what to show of it.
        of_records: whether it looks at records.
        stride: look at each such record only.
    """

    name: str
    text: str
    remedy: str
    level: Callable[[float], str]
    applies: Callable[[Seen], bool]
    excerpt: Callable[[Seen], str]
    of_records: bool = False
    stride: int = 1
    _count: int = 0
    _of: int = 0
    _where: str = ""
    _shown: str = ""
    _example: int | None = None

    @property
    def example(self) -> int | None:
        """The row in which it was found first."""
        return self._example

    def see(self, seen: Seen) -> None:
        """Look at a row."""
        if seen.index % self.stride:
            return
        self._of += 1
        if self.applies(seen):
            self._count += 1
            if self._example is None:
                self._example, self._where = seen.row_index, seen.where
                self._shown = self.excerpt(seen)

    def finding(self) -> Finding | None:
        """Return what was found, or None."""
        if not self._count:
            return None
        return Finding(
            name=self.name,
            level=self.level(self._count / self._of),
            text=self.text,
            remedy=self.remedy,
            count=self._count,
            of=self._of,
            where=self._where,
            excerpt=self._shown,
        )


def checks(setting: Setting) -> list[Check]:
    """Return every check that applies to a task and a tokenizer."""
    from lmkit.previewing.checks import endings, learning, prompts, repeats, texts

    made = [
        endings.eos_never_learned(setting),
        endings.double_bos(setting),
        prompts.prompt_not_a_prefix(setting),
        prompts.prompt_too_long(setting),
        learning.nothing_to_learn(setting),
        learning.answer_cut(setting),
        learning.row_cut(setting),
        learning.empty_answer(setting),
        learning.same_answer(setting),
        texts.control_tokens(setting),
        texts.unknown_tokens(setting),
        texts.text_dropped(setting),
        texts.unanswered_turn(setting),
        repeats.duplicate_rows(setting),
    ]
    return [check for check in made if check is not None]


def last_run(labels: Ids) -> Ids:
    """Return the last neighbouring labels that are learned, int64 [L]."""
    places = np.flatnonzero(labels != IGNORE)
    if not len(places):
        return labels[:0]
    breaks = np.flatnonzero(np.diff(places) > 1)
    first = places[breaks[-1] + 1] if len(breaks) else places[0]
    return labels[first : places[-1] + 1]
