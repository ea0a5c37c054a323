"""OpenAI's answers: what a request's tickets became, whole or as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import attrs

from lmkit.batching import Ticket, TokenScore, Update
from lmkit.serve.asking import Finished
from lmkit.serve.streaming import event

Updates = AsyncGenerator[tuple[int, Update], None]


class Writer(Protocol):
    """What puts answers into one of OpenAI's forms."""

    def whole(self, found: Sequence[Finished], count: int) -> dict[str, Any]:
        """Return the answer of a request, given its choices, `count` for each prompt."""

    def events(
        self, tickets: Sequence[Ticket], coming: Updates, *, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of a stream, the last with the usage if it is asked for."""


class ChatWriter:
    """The form of chat completions.

    Args:
        model: the model's name, as the request has it.
    """

    def __init__(self, model: str) -> None:
        self._head = _head("chatcmpl", model)

    def whole(self, found: Sequence[Finished], count: int) -> dict[str, Any]:
        """Return the answer."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.answer.text, "refusal": None},
                "logprobs": chat_logprobs(one.scores),
                "finish_reason": one.answer.finish_reason,
            }
            for index, one in enumerate(found)
        ]
        usage = _usage([one.answer for one in found], count)
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    async def events(
        self, tickets: Sequence[Ticket], coming: Updates, *, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks."""
        head = {**self._head, "object": "chat.completion.chunk"}
        later = {"usage": None} if usage else {}

        def chunk(
            index: int, delta: dict[str, str], logprobs: Any = None, reason: str | None = None
        ) -> bytes:
            choice = {
                "index": index,
                "delta": delta,
                "logprobs": logprobs,
                "finish_reason": reason,
            }
            return event({**head, "choices": [choice], **later})

        for index in range(len(tickets)):
            yield chunk(index, {"role": "assistant", "content": ""})
        async with aclosing(coming):
            async for index, update in coming:
                if update.text or update.scores:
                    yield chunk(index, {"content": update.text}, chat_logprobs(update.scores))
                answer = tickets[index].answer
                if update.done and answer is not None:
                    yield chunk(index, {}, None, answer.finish_reason)
        if usage:
            told = _usage([ticket.answer for ticket in tickets], len(tickets))  # of one prompt
            yield event({**head, "choices": [], "usage": told})


@attrs.frozen
class Echo:
    """What stands before each answer.

    Attributes:
        texts: the prompts' texts, or None for nothing.
        count: how many answers each prompt has.
    """

    texts: Sequence[str] | None
    count: int

    def before(self, index: int) -> str:
        """Return what stands before an answer."""
        return self.texts[index // self.count] if self.texts else ""


class CompletionWriter:
    """The form of completions.

    Args:
        model: the model's name, as the request has it.
        echo: what stands before each answer.
    """

    def __init__(self, model: str, echo: Echo) -> None:
        self._head = {**_head("cmpl", model), "object": "text_completion"}
        self._echo = echo

    def whole(self, found: Sequence[Finished], count: int) -> dict[str, Any]:
        """Return the answer."""
        choices = [
            {
                "index": index,
                "text": self._echo.before(index) + one.answer.text,
                "logprobs": completion_logprobs(one.scores, 0),
                "finish_reason": one.answer.finish_reason,
            }
            for index, one in enumerate(found)
        ]
        usage = _usage([one.answer for one in found], count)
        return {**self._head, "choices": choices, "usage": usage}

    async def events(
        self, tickets: Sequence[Ticket], coming: Updates, *, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks."""
        later = {"usage": None} if usage else {}
        shown = [0] * len(tickets)  # bytes of each answer's tokens, for where the next one begins

        def chunk(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> bytes:
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            return event({**self._head, "choices": [choice], **later})

        for index in range(len(tickets)):
            if before := self._echo.before(index):
                yield chunk(index, before)
        async with aclosing(coming):
            async for index, update in coming:
                if update.text or update.scores:
                    logprobs = completion_logprobs(update.scores, shown[index])
                    shown[index] += sum(len(_text(score.bytes)) for score in update.scores)
                    yield chunk(index, update.text, logprobs)
                answer = tickets[index].answer
                if update.done and answer is not None:
                    yield chunk(index, "", None, answer.finish_reason)
        if usage:
            told = _usage([ticket.answer for ticket in tickets], self._echo.count)
            yield event({**self._head, "choices": [], "usage": told})


def chat_logprobs(scores: Sequence[TokenScore]) -> dict[str, Any] | None:
    """Return scores in the form of chat completions, or None where there are none."""
    if not scores:
        return None
    content = [
        {
            **_token(score.bytes, score.logprob),
            "top_logprobs": [_token(text, logprob) for _, text, logprob in score.top],
        }
        for score in scores
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(scores: Sequence[TokenScore], start: int) -> dict[str, Any] | None:
    """Return scores in the form of completions, in columns, or None where there are none.

    Args:
        scores: those of some tokens.
        start: how many characters of the answer come before the first of them.
    """
    if not scores:
        return None
    tokens = [_text(score.bytes) for score in scores]
    offsets = [start]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [
            {_text(text): logprob for _, text, logprob in reversed(score.top)} for score in scores
        ],
        "text_offset": offsets,
    }


def _token(text: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(text), "logprob": logprob, "bytes": list(text)}


def _text(written: bytes) -> str:
    """Return a token's bytes as text; those that are a part of a character only are told as such."""
    return written.decode("utf-8", errors="backslashreplace")


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _usage(found: Sequence[Any], count: int) -> dict[str, int]:
    """Return the usage of a request; a prompt that is answered several times counts once."""
    asked = sum(answer.usage.prompt_tokens for answer in found[::count])
    written = sum(answer.usage.completion_tokens for answer in found)
    return {
        "prompt_tokens": asked,
        "completion_tokens": written,
        "total_tokens": asked + written,
    }
