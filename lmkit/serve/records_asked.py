"""What OpenAI's bodies ask of a task: its record, made of messages or of a plain prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmkit.chat.messages import said
from lmkit.formatting import Record
from lmkit.renaming import messages_column
from lmkit.serve.columns import TEXT
from lmkit.serve.openai_schemas import Message
from lmkit.serve.problems import Problem
from lmkit.serve.task_schemas import Endpoint


def chat_record(endpoint: Endpoint, messages: Sequence[Message]) -> Record:
    """Return the record that a conversation is for a task.

    A task that reads messages gets them all. Another one gets the last user's text in its one column.

    Raises:
        Problem: it has several columns, so that a conversation does not say what each is; or there is
            no user's message, or nothing in the last one.
    """
    turns = [message.turn for message in messages]
    column = messages_column(endpoint.served.task.formatter)
    if column is not None:
        return {column: turns}
    column = _one_column(endpoint, "messages")
    asked = [turn for turn in turns if turn["role"] == "user"]
    if not asked:
        raise Problem(
            f"no message is the user's; model '{endpoint.served.name}' answers the last one of them",
            code="invalid_record",
            param="messages",
        )
    if asked[-1].get("content") is None:
        raise Problem(
            "the user's last message has no content; expected text",
            code="invalid_record",
            param="messages",
        )
    return {column: said(asked[-1])}


def text_record(endpoint: Endpoint, text: str) -> Record:
    """Return the record that a plain prompt is for a task: one turn of the user's, or its one column.

    Raises:
        Problem: it has several columns.
    """
    column = messages_column(endpoint.served.task.formatter)
    if column is not None:
        return {column: [{"role": "user", "content": text}]}
    return {_one_column(endpoint, "prompt"): text}


def _one_column(endpoint: Endpoint, param: str) -> str:
    """Return the one column that a task is asked with, or the only one that it cannot do without."""
    columns = endpoint.columns
    needed = [column for column in columns if column.required] or list(columns)
    if len(needed) == 1 and needed[0].type == TEXT:
        return needed[0].name
    name = endpoint.served.name
    listed: list[Any] = [
        f"{column.name}" + ("" if column.required else " (optional)") for column in columns
    ]
    raise Problem(
        f"model '{name}' is asked by its columns, which are {', '.join(listed)}; "
        f"send them to POST /v1/tasks/{name}",
        code="needs_columns",
        param=param,
    )
