"""Answer a conversation: what is shown to the model, how its answer comes, and what that cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.answering import Answerer
from lmkit.chatting.conversation import Conversation
from lmkit.decoding import Answer, Chooser, Filler, Usage
from lmkit.decoding.text import TextDecoder
from lmkit.encoding import Ids
from lmkit.errors import PromptTooLong
from lmkit.task import Task

INTERRUPTED = "interrupted"  # the finish reason of an answer that its reader stopped
_SHARE = 4  # an answer is thought to want no more than this part of a context


@runtime_checkable
class HasRoom(Protocol):
    """An answerer that knows how long its texts may be."""

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens that can follow a prompt, or None for as many as one likes."""


@attrs.frozen(kw_only=True)
class Reply:
    """An answer, and how it came.

    Attributes:
        answer: what the model said; `interrupted` is its finish reason if its reader stopped it.
        seconds: how long it took.
        seconds_to_first: how long its first text took, or None if there was none.
        full: whether it ended because the model's context did.
    """

    answer: Answer
    seconds: float
    seconds_to_first: float | None
    full: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the tokens behind the first came, or None for an answer of one."""
        more = self.answer.usage.completion_tokens - 1
        if self.seconds_to_first is None or more < 1 or self.seconds <= self.seconds_to_first:
            return None
        return more / (self.seconds - self.seconds_to_first)

    def timing(self) -> dict[str, float | None]:
        """Return the figures by name."""
        return {
            "seconds": self.seconds,
            "seconds_to_first": self.seconds_to_first,
            "tokens_per_second": self.tokens_per_second,
        }


@attrs.define(kw_only=True)
class Talk:
    """A model and a conversation with it.

    Attributes:
        model: what answers.
        conversation: what was said.
        options: fields of `Generation` that hold for its answers.
        trims: whether the oldest turns are left out when the context is full.
    """

    model: Answerer
    conversation: Conversation
    options: dict[str, Any] = attrs.field(factory=dict)
    trims: bool = False

    @property
    def writes(self) -> bool:
        """Whether answers are text that comes in pieces; labels and fills come whole."""
        return not isinstance(self.model.task.decoder, (Chooser, Filler))

    def trim(self) -> int:
        """Leave out the oldest turns if the context has little room for an answer.

        Little is less than the answer may have, and less than a quarter of the context. Then so many
        go that the prompt fills half of it: what stays is the same for the next turns, so the model
        has read it already.

        Returns:
            How many turns were left out.
        """
        if not self.trims or not self.conversation.remembers:
            return 0
        count = 0
        while (size := self._size()) is not None:
            length, most = size
            wanted = min(self._max_new_tokens(), most // _SHARE)
            fits = length + wanted <= most if count == 0 else length <= most // 2
            if fits or not self.conversation.leave_out_oldest():
                break
            count += 1
        return count

    def reply(self, on_piece: Callable[[str], object], stopped: Callable[[], bool]) -> Reply:
        """Answer the last message, and add the answer to the conversation.

        Args:
            on_piece: called with each piece of a text as it is written, white space around the text
                left out if the task's decoder does so.
            stopped: whether to stop; it is asked after every piece.
        Raises:
            RecordError: the conversation does not fit the task or its template.
            PromptTooLong: it does not fit the context.
        """
        record = self.conversation.record
        prompt = self.model.prompt(record)
        started = time.perf_counter()
        if not self.writes:
            answer = self.model(record, **self.options)
            seconds = time.perf_counter() - started
            self.conversation.hear(answer.text)
            return Reply(answer=answer, seconds=seconds, seconds_to_first=seconds)
        seconds_to_first = None
        pieces = Pieces(self.model, record, self.options)
        for piece in shown(self.model.task, pieces):
            if seconds_to_first is None:
                seconds_to_first = time.perf_counter() - started
            on_piece(piece)
            if stopped():
                pieces.close()
                break
        answer = pieces.answer or self._interrupted(prompt, pieces.text)
        value = answer.value
        self.conversation.hear(value if isinstance(value, str) else answer.text)
        room = self.model.room(prompt) if isinstance(self.model, HasRoom) else None
        return Reply(
            answer=answer,
            seconds=time.perf_counter() - started,
            seconds_to_first=seconds_to_first,
            full=answer.finish_reason == "length"
            and room is not None
            and answer.usage.completion_tokens >= room,
        )

    def _interrupted(self, prompt: Ids, text: str) -> Answer:
        wrote = len(self.model.tokenizer.encode(text, opens=False))
        return Answer(
            value=self.model.task.decoder.read(text),
            text=text,
            finish_reason=INTERRUPTED,
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=wrote),
        )

    def _max_new_tokens(self) -> int:
        return self.model.task.generation.override(**self.options).max_new_tokens

    def _size(self) -> tuple[int, int] | None:
        """Return the prompt's tokens and the context's, or None if there is no bound."""
        try:
            prompt = self.model.prompt(self.conversation.record)
        except PromptTooLong as error:
            return error.prompt_tokens, error.context_length
        room = self.model.room(prompt) if isinstance(self.model, HasRoom) else None
        return None if room is None else (len(prompt), len(prompt) + room)


class Pieces:
    """The pieces of an answer, and the answer itself when there are no more.

    Attributes:
        text: what has come.
        answer: what the stream returned at its end; None before it.
    """

    def __init__(self, model: Answerer, record: dict[str, Any], options: dict[str, Any]) -> None:
        self.text = ""
        self.answer: Answer | None = None
        self._stream = model.stream(record, **options)

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                piece = next(self._stream)
            except StopIteration as end:
                self.answer = end.value
                return
            self.text += piece
            yield piece

    def close(self) -> None:
        """Stop the model."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def shown(task: Task, pieces: Pieces) -> Iterator[str]:
    """Yield pieces as the task's decoder reads the whole: it may drop white space around the text."""
    if not (isinstance(task.decoder, TextDecoder) and task.decoder.strip):
        yield from pieces
        return
    begun, held = False, ""
    for piece in pieces:
        text = held + piece if begun else (held + piece).lstrip()
        words = text.rstrip()
        held = text[len(words) :]
        begun = begun or bool(words)
        yield words
