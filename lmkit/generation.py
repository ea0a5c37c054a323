"""Options: how a causal or seq2seq model writes its answer.

A task carries a `Generation` as its defaults, the bundle stores it, and a call overrides fields of
it. `lmkit.runtime.sampling` turns it into token choices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, SupportsIndex, TypeAlias, cast

import attrs

from lmkit.errors import TaskError
from lmkit.validators import (
    TEXTS,
    Check,
    as_float,
    as_int,
    as_int_or_none,
    as_texts,
    at_least,
    number,
    optional,
)
from lmkit.values import value

EarlyStopping: TypeAlias = bool | Literal["never"]


def token_ids(given: SupportsIndex | Iterable[SupportsIndex]) -> tuple[int, ...]:
    """Turn one id into a tuple of it and a list into a tuple; leave anything else as it is.

    >>> token_ids(3), token_ids([3, 4])
    ((3,), (3, 4))
    """
    if isinstance(given, Iterable) and not isinstance(given, str):
        return tuple(as_int(token) for token in given)
    found = as_int(given)
    return (found,) if type(found) is int else cast("tuple[int, ...]", found)


def _are_token_ids(given: Any) -> bool:
    return isinstance(given, tuple) and all(type(token) is int and token >= 0 for token in given)


@value(kw_only=True)
class Generation:
    """How long an answer is, how its tokens are drawn, and what ends it.

    The names and meanings are those of transformers' `GenerationConfig`, with one simplification:
    there is no `do_sample`, a temperature of 0 is greedy. Beams are searched, never drawn, so more
    than one of them wants a temperature of 0. The defaults are neutral.

    Source: transformers.generation.configuration_utils.GenerationConfig.

    Attributes:
        max_new_tokens: the most tokens of an answer.
        min_new_tokens: how many tokens come before an end token is allowed.
        temperature: what the logits are divided by; 0 takes the likeliest token every time.
        top_k: draw from the k likeliest tokens only; 0 is off.
        top_p: draw from the likeliest tokens that hold this much probability; 1 is off.
        min_p: draw from tokens with at least this share of the top token's probability; 0 is off.
        repetition_penalty: above 1 makes tokens that are already there less likely; 1 is off.
        no_repeat_ngram_size: never write an n-gram of this size twice; 0 is off.
        encoder_no_repeat_ngram_size: never write an n-gram of this size that what the model is
            given has (an encoder's source, a causal model's prompt); 0 is off.
        forced_bos_token_id: the id that an answer begins with where the model is given one token
            to start from, as a seq2seq decoder is.
        forced_eos_token_id: the id that comes last where an answer reaches its full length.
        suppress_tokens: ids that an answer never has, as Marian's never has its pad token.
        num_beams: how many texts a beam search follows at once; 1 follows the likeliest token.
        length_penalty: a text of L new tokens scores its log-probability over L to this power:
            above 0 favours long texts, below 0 short ones. For beams only.
        early_stopping: when a beam search ends: True, as soon as there are `num_beams` whole texts;
            False, when a longer one is unlikely to be better; "never", when none can be.
        prompt_lookup_num_tokens: the most tokens that are guessed from what was read and written, and
            then checked at once, where a causal model answers greedily: its text stays the same, and
            comes faster where it repeats. None guesses as many as pay; 0 is off.
        seed: makes draws repeatable; None draws differently each time.
        stop: texts that end the answer and are not part of it.

    Raises:
        TaskError: a field is out of its range.
        UnknownOption: there is no such field.
    """

    max_new_tokens: int = attrs.field(default=128, converter=as_int, validator=at_least(1))
    min_new_tokens: int = attrs.field(default=0, converter=as_int, validator=at_least(0))
    temperature: float = attrs.field(
        default=0.0,
        converter=as_float,
        validator=number("a number of 0 or more", lambda t: t >= 0, "where 0 is greedy"),
    )
    top_k: int = attrs.field(
        default=0, converter=as_int, validator=at_least(0, "where 0 keeps every token")
    )
    top_p: float = attrs.field(
        default=1.0,
        converter=as_float,
        validator=number("a number above 0 and up to 1", lambda p: 0 < p <= 1, "where 1 is off"),
    )
    min_p: float = attrs.field(
        default=0.0,
        converter=as_float,
        validator=number("a number from 0 to below 1", lambda p: 0 <= p < 1, "where 0 is off"),
    )
    repetition_penalty: float = attrs.field(
        default=1.0,
        converter=as_float,
        validator=number("a number above 0", lambda penalty: penalty > 0, "where 1 is off"),
    )
    no_repeat_ngram_size: int = attrs.field(
        default=0, converter=as_int, validator=at_least(0, "where 0 is off")
    )
    encoder_no_repeat_ngram_size: int = attrs.field(
        default=0, converter=as_int, validator=at_least(0, "where 0 is off")
    )
    forced_bos_token_id: int | None = attrs.field(
        default=None, converter=as_int_or_none, validator=optional(at_least(0))
    )
    forced_eos_token_id: int | None = attrs.field(
        default=None, converter=as_int_or_none, validator=optional(at_least(0))
    )
    suppress_tokens: tuple[int, ...] = attrs.field(
        default=(),
        converter=token_ids,
        validator=Check("whole numbers of 0 or more", _are_token_ids),
    )
    num_beams: int = attrs.field(
        default=1, converter=as_int, validator=at_least(1, "where 1 is no beam search")
    )
    length_penalty: float = attrs.field(
        default=1.0, converter=as_float, validator=number("a number", lambda penalty: True)
    )
    early_stopping: EarlyStopping = attrs.field(
        default=False,
        validator=Check(
            "True, False or 'never'", lambda given: isinstance(given, bool) or given == "never"
        ),
    )
    prompt_lookup_num_tokens: int | None = attrs.field(
        default=None, converter=as_int_or_none, validator=optional(at_least(0, "where 0 is off"))
    )
    seed: int | None = attrs.field(
        default=None, converter=as_int_or_none, validator=optional(at_least(0))
    )
    stop: tuple[str, ...] = attrs.field(default=(), converter=as_texts, validator=TEXTS)

    def __attrs_post_init__(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise TaskError(
                f"min_new_tokens is {self.min_new_tokens}; expected at most max_new_tokens, "
                f"which is {self.max_new_tokens}"
            )
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if getattr(self, name) in self.suppress_tokens:
                raise TaskError(
                    f"{name} is {getattr(self, name)}, and suppress_tokens has it, so no token could "
                    "be written there; expected a token to be forced or forbidden, not both"
                )
        if self.num_beams > 1 and self.temperature > 0:
            raise TaskError(
                f"num_beams is {self.num_beams} and temperature is {self.temperature:g}; expected "
                "temperature=0 with beams, which are searched and not drawn, or num_beams=1"
            )

    def override(self, **options: Any) -> Generation:
        """Return a copy with some fields replaced.

        Raises:
            TaskError: a field is out of its range.
            UnknownOption: there is no such field.

        >>> Generation(top_k=5).override(temperature=1)
        Generation(temperature=1.0, top_k=5)
        """
        return attrs.evolve(self, **options)
