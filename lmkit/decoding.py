"""Decode: what the model produced becomes an answer.

Decoders run on both sides: on torch's output when a run is evaluated, and in the torch-free
runtime. The answer is exactly what the model wrote after the prompt: no marker is searched for, so
a marker inside a prompt or an answer changes nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.family import Family
from lmkit.generation import stop_strings
from lmkit.validators import TEXTS
from lmkit.values import value


@value(kw_only=True)
class Usage:
    """What a request cost, in tokens.

    Attributes:
        prompt_tokens: ids given to the model.
        completion_tokens: ids that it wrote, the one that ended the answer included.
    """

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@value(kw_only=True)
class Answer:
    """What a model answered.

    Attributes:
        value: the answer as the task's decoder reads it.
        text: the words as the model wrote them, without control tokens and without a stop string.
        finish_reason: `stop` (the model ended, or a stop string came) or `length`.
        usage: what it cost.
        token_ids: the ids that the model wrote.
    """

    value: Any
    text: str
    finish_reason: str
    usage: Usage
    token_ids: tuple[int, ...] = ()


@runtime_checkable
class Decoder(Protocol):
    """What reads a model's text as an answer."""

    @property
    def families(self) -> frozenset[Family]:
        """The families whose output it can read."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer; they are cut from it."""

    def read(self, text: str) -> Any:
        """Return the answer's value."""


@value(kw_only=True)
class TextDecoder:
    r"""The answer is the text itself.

    Attributes:
        stop: texts that end the answer wherever they appear in it; they are cut off.
        strip: whether to drop white space around the answer.

    >>> TextDecoder().read(" 네, 맞아요.\n")
    '네, 맞아요.'
    """

    stop: tuple[str, ...] = attrs.field(default=(), converter=stop_strings, validator=TEXTS)
    strip: bool = True

    families = frozenset({Family.CAUSAL, Family.SEQ2SEQ})

    def read(self, text: str) -> str:
        """Return the text, stripped if so asked."""
        return text.strip() if self.strip else text
