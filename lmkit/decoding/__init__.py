"""Decode: what the model produced becomes an answer.

Decoders run on both sides: on torch's output when a run is evaluated, and in the torch-free
runtime. The answer is exactly what the model wrote after the prompt: no marker is searched for, so
a marker inside a prompt or an answer changes nothing.

A decoder decides how the model is asked: a plain one reads the text that the model writes, a
`Chooser` has given labels scored, and a `Filler` reads the logits of a masked text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lmkit.family import Family
from lmkit.values import value

if TYPE_CHECKING:
    from lmkit.tokenizing import Tokenizer


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
        probabilities: what each label got, where the answer is one of several labels.
    """

    value: Any
    text: str
    finish_reason: str
    usage: Usage
    token_ids: tuple[int, ...] = ()
    probabilities: Mapping[str, float] | None = None


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


@runtime_checkable
class Chooser(Decoder, Protocol):
    """A decoder that picks one of several labels; the model writes nothing freely."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""

    def choose(self, scores: Sequence[NDArray[np.float64]]) -> dict[str, float]:
        """Return each label's probability, given the log-probabilities of its tokens, float64 [L]."""


@runtime_checkable
class Filler(Decoder, Protocol):
    """A decoder that reads what a masked model would put in place of its mask tokens."""

    def fill(
        self, input_ids: NDArray[np.int64], logits: NDArray[np.float32], tokenizer: Tokenizer
    ) -> Any:
        """Return the answer's value for one text.

        Args:
            input_ids: int64 [T].
            logits: float32 [T, V]; those of tokens that are no mask are zeros, for nobody reckons them.
            tokenizer: the model's.
        """
