"""Give a chat template messages in the form that it reads.

Templates differ in what they take: contents as text or as lists of parts, a tool call's arguments as
JSON or as an object, null or nothing for a missing content. One that is given the other form fails,
or, worse, writes something else. So each template is tried with made-up messages, once.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import attrs

from lmkit.chat.messages import Message, as_text, in_parts
from lmkit.chat.rendering import Rendering
from lmkit.errors import TemplateError

_WORD = "lmkitword"  # to be found again in the rendered text
_ARGUMENTS = {"place": _WORD}


@attrs.frozen
class Form:
    """What a template reads.

    Attributes:
        text: contents that are text.
        parts: contents that are lists of parts.
        encoded: a tool call's arguments as JSON.
        decoded: a tool call's arguments as an object.
        null: null as the content of a message with tool calls.
    """

    text: bool
    parts: bool
    encoded: bool
    decoded: bool
    null: bool


def in_form(messages: Sequence[Message], rendering: Rendering) -> list[Message]:
    """Return messages in the form that a template reads; what it reads stays as it is."""
    form = form_of(rendering)
    if form.parts and not form.text:
        messages = in_parts(messages)
    elif not form.parts:
        messages = as_text(messages)
    return [
        _calling(message, form) if message.get("tool_calls") else message for message in messages
    ]


@functools.lru_cache(maxsize=64)
def form_of(rendering: Rendering) -> Form:
    """Find out what a template reads."""
    listed = _written(rendering, [{"type": "text", "text": _WORD}])
    text = _WORD in _written(rendering, _WORD)
    parts = _WORD in listed and not re.search("['\"]text['\"]", listed)
    content: Any = [{"type": "text", "text": "a"}] if parts and not text else "a"
    encoded = _written(rendering, content, json.dumps(_ARGUMENTS))
    decoded = _written(rendering, content, _ARGUMENTS)
    nothing = [_written(rendering, None, a) for a in (_ARGUMENTS, json.dumps(_ARGUMENTS))]
    return Form(
        text=text,
        parts=parts,
        encoded=json.dumps(_ARGUMENTS) in encoded,
        decoded=_WORD in decoded and not re.search(r"['\"]?place'", decoded),
        null=any(_WORD in found and not re.search("None|null", found) for found in nothing),
    )


def _written(rendering: Rendering, content: Any, arguments: Any = None) -> str:
    """Return what a template writes for one exchange; nothing if it refuses that."""
    asked = [{"type": "text", "text": "a"}] if isinstance(content, list) else "a"
    answer: Message = {"role": "assistant", "content": content}
    if arguments is not None:
        call = {"name": "tool", "arguments": arguments}
        # Mistral's templates want ids of nine letters.
        answer["tool_calls"] = [{"type": "function", "id": "abcdefghi", "function": call}]
    try:
        return rendering.render([{"role": "user", "content": asked}, answer]).text
    except TemplateError:
        return ""


def _calling(message: Message, form: Form) -> Message:
    changed = {**message, "tool_calls": [_call(call, form) for call in message["tool_calls"]]}
    if changed.get("content", "") is None and not form.null:
        changed["content"] = [{"type": "text", "text": ""}] if form.parts and not form.text else ""
    return changed


def _call(call: Any, form: Form) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(call["function"], form)}
    arguments = call.get("arguments")
    if isinstance(arguments, str) and form.decoded and not form.encoded:
        try:
            return {**call, "arguments": json.loads(arguments)}
        except (json.JSONDecodeError, RecursionError):
            return call
    if isinstance(arguments, dict) and form.encoded and not form.decoded:
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return call
