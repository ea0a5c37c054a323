"""What was said so far, as a list of messages; and the record that the task makes its prompt of."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmkit.chat.messages import SYSTEM_ROLES, Message, check_messages, said
from lmkit.errors import RecordError, TaskError
from lmkit.records import read
from lmkit.renaming import messages_column
from lmkit.task import Task

ANSWER = "answer"  # the column that a saved line has its answer in, where the task has no messages


@attrs.define(kw_only=True)
class Conversation:
    """Messages, the user's and the assistant's in turn, and perhaps a system message before them.

    A task that is no chat has no memory: its record holds the last message only.

    Attributes:
        column: the task's column that the messages, or the last one's text, stand in.
        remembers: whether the task reads all messages.
        fixed: the record's other columns.
        system: the system message, or None for the task's own, if it has one.
        messages: what was said, without the system message.
        start: the first message that the model is shown; those before it are left out.
    """

    column: str
    remembers: bool
    fixed: Mapping[str, Any] = attrs.field(factory=dict)
    system: str | None = None
    messages: list[Message] = attrs.field(factory=list)
    start: int = 0

    @classmethod
    def about(
        cls, task: Task, fixed: Mapping[str, Any] | None = None, system: str | None = None
    ) -> Conversation:
        """Begin a conversation with a task.

        Args:
            task: what answers.
            fixed: columns that are the same for every message.
            system: the system message.
        Raises:
            TaskError: no column, or more than one, is left for what is typed; or the task knows no
                system message.
        """
        given = dict(fixed or {})
        column = messages_column(task.formatter)
        if column is not None and column not in given:
            return cls(column=column, remembers=True, fixed=given, system=system)
        left = [name for name in task.prompt_columns if name not in given]
        if len(left) != 1:
            raise TaskError(_columns_problem(task, left))
        if system is not None:
            raise TaskError(NO_SYSTEM.format(task.name))
        return cls(column=left[0], remembers=False, fixed=given)

    @property
    def record(self) -> dict[str, Any]:
        """The record whose prompt is answered, or was: an answer behind it is not part of that."""
        if not self.remembers:
            return {**self.fixed, self.column: self.asked()}
        return {**self.fixed, self.column: self._with_system(self.messages[self.start :])}

    @property
    def waits(self) -> bool:
        """Whether the last message has no answer yet."""
        return bool(self.messages) and self.messages[-1]["role"] != "assistant"

    @property
    def n_turns(self) -> int:
        """How often the user spoke."""
        return len(self._asked())

    def say(self, text: str) -> None:
        """Add a message of the user's."""
        self.messages.append({"role": "user", "content": text})

    def hear(self, text: str) -> None:
        """Add an answer."""
        self.messages.append({"role": "assistant", "content": text})

    def asked(self) -> str | None:
        """Return what the user said last, or None."""
        places = self._asked()
        return said(self.messages[places[-1]]) if places else None

    def undo(self) -> str | None:
        """Take back what the user said last, with what came after it; return it, or None."""
        places = self._asked()
        if not places:
            return None
        text = said(self.messages[places[-1]])
        del self.messages[places[-1] :]
        self.start = min(self.start, len(self.messages))
        return text

    def take_back_answer(self) -> bool:
        """Leave the user's last message without an answer; return whether there is such a message."""
        places = self._asked()
        if places:
            del self.messages[places[-1] + 1 :]
        return bool(places)

    def clear(self) -> None:
        """Forget all messages; the system message stays."""
        self.messages.clear()
        self.start = 0

    def leave_out_oldest(self) -> bool:
        """Show the model one turn less, the oldest; return whether there was more than one."""
        later = [place for place in self._asked() if place > self.start]
        if not self.remembers or not later:
            return False
        self.start = later[0]
        return True

    def as_lines(self) -> str:
        """Return it as JSON lines: one record of messages, or one for each message and its answer."""
        if self.remembers:
            rows = [{**self.fixed, self.column: self._with_system(self.messages)}]
        else:
            rows = []
            for message in self.messages:
                if message["role"] == "user":
                    rows.append({**self.fixed, self.column: message["content"]})
                else:
                    rows[-1][ANSWER] = message["content"]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def load(self, source: str) -> None:
        """Go on with a conversation from a file, in place of this one.

        Args:
            source: a file of records, such as `as_lines` writes; `chats.jsonl:3` is its third.
        Raises:
            RecordError: it cannot be read, is no such record, or holds several and none was chosen.
        """
        rows = self._rows(source)
        if not self.remembers:
            messages: list[Message] = []
            for row in rows:
                if not isinstance(row.get(self.column), str):
                    raise RecordError(row.where, f"expected a text in column '{self.column}'")
                messages.append({"role": "user", "content": row[self.column]})
                if isinstance(row.get(ANSWER), str):
                    messages.append({"role": "assistant", "content": row[ANSWER]})
            self.messages, self.start = messages, 0
            return
        if len(rows) != 1:
            raise RecordError(
                source,
                f"has {len(rows)} conversations; choose one, such as {source}:1",
            )
        try:
            found = copy.deepcopy(check_messages(rows[0], self.column))
        except RecordError as error:
            raise RecordError(f"{rows[0].where} {error.where}".strip(), error.problem) from error
        system = None
        if found[0]["role"] in SYSTEM_ROLES:
            system = said(found.pop(0))
        self.messages, self.system, self.start = found, system, 0

    def _rows(self, source: str) -> Sequence[Any]:
        chosen = re.fullmatch(r"(.+):(\d+)", source)
        if chosen is None or os.path.exists(source):
            return _read(source)
        rows, number = _read(chosen[1]), int(chosen[2])
        if not 1 <= number <= len(rows):
            raise RecordError(chosen[1], f"has {len(rows)} records, and none is number {number}")
        return rows[number - 1 : number]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, *messages]

    def _asked(self) -> list[int]:
        return [place for place, message in enumerate(self.messages) if message["role"] == "user"]


def _read(source: str) -> Sequence[Any]:
    # What is no file might be a name on a hub, or standard input; what can be none is no error to os.path.
    if not os.path.isfile(source):
        raise RecordError(
            source, "is no file; expected one that /save wrote, or any JSONL of chats"
        )
    return read(source)


NO_SYSTEM = "the task '{}' reads no list of messages, so it has no place for a system message"


def _columns_problem(task: Task, left: Sequence[str]) -> str:
    columns = ", ".join(task.prompt_columns)
    if not left:
        return (
            f"the columns of the task '{task.name}' ({columns}) are all given, so none is left for "
            "what is typed; leave one --set out"
        )
    return (
        f"the task '{task.name}' reads several columns ({columns}), and what is typed can fill one; "
        f"give the others, as in --set {left[-1]}=TEXT, or use 'lmkit generate'"
    )
