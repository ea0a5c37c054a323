"""The messages of a record, and its tools: checked, and in the form that chat templates know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmkit.errors import RecordError
from lmkit.formatting import Record

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
SYSTEM_ROLES = ("system", "developer")
# Source: transformers/utils/chat_template_utils.py, _REASONING_FIELDS: the names for an answer's
# reasoning, of which templates read one or another.
REASONING = ("reasoning_content", "thinking", "reasoning")


def check_messages(record: Record, column: str) -> list[Message]:
    """Return a record's messages, each checked.

    Raises:
        RecordError: the column is missing or is no list of messages; the text names the message.
    """
    if column not in record:
        have = ", ".join(map(str, record)) or "no columns"
        raise RecordError("", f"column '{column}' is missing; the record has {have}")
    found = record[column]
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
        raise RecordError(
            "",
            f"column '{column}' is {_kind(found)}, expected a list of messages such as "
            '[{"role": "user", "content": "..."}]',
        )
    return [_checked(message, f"$.{column}[{index}]") for index, message in enumerate(found)]


def check_tools(record: Record, column: str) -> list[Any] | None:
    """Return the tools that a record defines: a list, or JSON of one; None if it defines none.

    Raises:
        RecordError: the column holds something else.
    """
    found = record.get(column)
    if isinstance(found, str) and found.strip():
        try:
            found = json.loads(found)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RecordError("", f"column '{column}' is text, but no JSON: {error}") from error
    if not found or isinstance(found, str):
        return None
    if not isinstance(found, Sequence) or not all(isinstance(tool, Mapping) for tool in found):
        raise RecordError(
            "",
            f"column '{column}' is {_kind(found)}, expected a list of tools such as "
            '[{"type": "function", "function": {"name": "...", "parameters": {...}}}]',
        )
    return list(found)


def before_the_user(messages: Sequence[Message], column: str) -> list[Message]:
    """Return messages whose opening system message is put in front of the user's first words.

    Raises:
        RecordError: no user's message follows it.
    """
    if messages[0]["role"] not in SYSTEM_ROLES:
        return list(messages)
    if len(messages) < 2 or messages[1]["role"] != "user":
        raise RecordError(
            "", f"column '{column}' has a system message and no user's behind it to put it in"
        )
    system, user, *others = messages
    told, asked = system["content"], user["content"]
    if isinstance(told, str) and isinstance(asked, str):
        return [{**user, "content": f"{told}\n\n{asked}"}, *others]
    parts = [*_parts(told), {"type": "text", "text": "\n\n"}, *_parts(asked)]
    return [{**user, "content": parts}, *others]


def in_parts(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose contents are lists of text parts, for templates that read no other."""
    return [
        {**message, "content": _parts(message["content"])}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def as_text(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose contents are text, for templates that read no lists of parts."""
    return [
        {**message, "content": said(message)}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def said(message: Mapping[str, Any]) -> str:
    """Return a message's content as one text.

    >>> said({"role": "user", "content": [{"type": "text", "text": "a"}]})
    'a'
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or ())


def texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text that a message has to say: content, reasoning, and what it calls tools with."""
    reasoning = next((message[key] for key in REASONING if isinstance(message.get(key), str)), None)
    if reasoning is not None:
        yield reasoning
    yield said(message)
    for call in message.get("tool_calls") or ():
        yield from _strings(call.get("function", call) if isinstance(call, Mapping) else call)


def _strings(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping):
        for inner in part.values():
            yield from _strings(inner)
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _strings(inner)


def _checked(message: Any, place: str) -> Message:
    if not isinstance(message, Mapping):
        raise RecordError("", f"{place} is {_kind(message)}, expected a role and a content")
    role = message.get("role")
    if role not in ROLES:
        raise RecordError("", f"{place}.role is {role!r}, expected one of {', '.join(ROLES)}")
    # Arrow gives a key that other rows have as None: to a template, that is an absent key.
    checked = {key: part for key, part in message.items() if part is not None}
    content = checked.get("content")
    if content is None and checked.get("tool_calls"):
        if "content" in message:
            checked["content"] = None
    elif isinstance(content, (list, tuple)):
        checked["content"] = [_text_part(part, place, at) for at, part in enumerate(content)]
    elif not isinstance(content, str):
        raise RecordError("", f"{place}.content is {_kind(content)}, expected text")
    reasoning = next((checked[key] for key in REASONING if key in checked), None)
    if reasoning is not None:  # as transformers has it: templates read one name or another
        checked = {"thinking": reasoning, **checked, "reasoning_content": reasoning}
    return checked


def _text_part(part: Any, place: str, index: int) -> Any:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    found = f"of type {kind!r}" if kind is not None else _kind(part)
    raise RecordError("", f"{place}.content[{index}] is {found}, expected a part with a text")


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def _kind(found: Any) -> str:
    if found is None:
        return "null"
    if isinstance(found, (str, list)) and not found:
        return "empty"
    return f"a {type(found).__name__}"
