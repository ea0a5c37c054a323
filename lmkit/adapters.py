"""Adapters: a few weights that are trained beside a model whose own stay as they are.

These are light values that say what to train; `lmkit.train.adapting` makes them with peft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from lmkit.errors import TaskError, UnknownName
from lmkit.scratch import parse_value
from lmkit.validators import (
    FLAG,
    TEXT,
    TEXTS,
    as_float,
    as_int,
    as_texts,
    at_least,
    number,
    optional,
)
from lmkit.values import value

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the head


def _as_names(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    return None if given is None else as_texts(given)


@value
class Lora:
    """Low-rank updates beside some of the model's matrices; merged into them at export.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
    https://arxiv.org/abs/2106.09685. Names and meanings are those of peft's `LoraConfig`.

    Attributes:
        r: the rank of an update.
        lora_alpha: an update is multiplied by `lora_alpha / r`.
        lora_dropout: the share of an update's input that is dropped in training.
        target_modules: which layers, by the ends of their names; `all-linear` for all but the head;
            None for those that peft knows to be good in the architecture.
        use_rslora: divide by the root of r instead, which suits higher ranks.

    >>> Lora(r=4, target_modules=["q_proj"])
    Lora(r=4, target_modules=('q_proj',))
    """

    r: int = attrs.field(default=8, converter=as_int, validator=at_least(1))
    lora_alpha: float = attrs.field(
        default=16,
        validator=number("a number above 0", lambda given: given > 0),
    )
    lora_dropout: float = attrs.field(
        default=0.0,
        converter=as_float,
        validator=number("a number from 0 to below 1", lambda given: 0 <= given < 1),
    )
    target_modules: tuple[str, ...] | None = attrs.field(
        default=None, converter=_as_names, validator=optional(TEXTS)
    )
    use_rslora: bool = attrs.field(default=False, validator=FLAG)

    @target_modules.validator
    def _check_some(self, attribute: object, names: tuple[str, ...] | None) -> None:
        if names == ():
            raise TaskError("target_modules is empty; expected names of layers, or None")

    def __str__(self) -> str:
        return _spelt("lora", self)


@value
class PromptTuning:
    """Learned vectors that stand before every prompt, like tokens without a word.

    In a bundle they are keys and values that are computed once, at export.

    Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning",
    https://arxiv.org/abs/2104.08691.

    Attributes:
        num_virtual_tokens: how many; each takes a place in the model's context.
        init_text: their first values are this text's embeddings, repeated or cut to their number;
            None takes random tokens of the vocabulary.
    """

    num_virtual_tokens: int = attrs.field(converter=as_int, validator=at_least(1))
    init_text: str | None = attrs.field(default=None, validator=optional(TEXT))

    def __str__(self) -> str:
        return _spelt("prompt_tuning", self)


lora, prompt_tuning = Lora, PromptTuning

Adapter = Lora | PromptTuning
_KINDS: dict[str, type[Lora] | type[PromptTuning]] = {"lora": Lora, "prompt_tuning": PromptTuning}


def as_adapter(given: Any) -> Adapter | None:
    """Return an adapter as it is, or the one that a text spells; None stays None.

    Raises:
        TaskError: it is neither.
        UnknownName: as for `parse_adapter`, whose other errors it raises too.
    """
    if isinstance(given, str):
        return parse_adapter(given)
    if given is None or isinstance(given, (Lora, PromptTuning)):
        return given
    hint = "; write its parentheses" if isinstance(given, type) else ""
    raise TaskError(f"adapter is {given!r}; expected lora(...) or prompt_tuning(...){hint}")


def parse_adapter(text: str) -> Adapter:
    """Return the adapter that a command line's `lora:r=8,lora_alpha=16` means.

    >>> parse_adapter("prompt_tuning:num_virtual_tokens=8,init_text=Answer, briefly:")
    PromptTuning(num_virtual_tokens=8, init_text='Answer, briefly:')

    Raises:
        UnknownName: there is no such adapter.
        TaskError: an option is not `name=value`, or its value is out of range.
        UnknownOption: the adapter has no such option.
    """
    name, _, rest = text.partition(":")
    if name.strip() not in _KINDS:
        raise UnknownName("adapter", name.strip(), _KINDS)
    options = {}
    # A comma separates where another option's name follows it, and is a part of the value otherwise.
    for pair in re.split(r",(?=\s*\w+\s*=)", rest) if rest else ():
        option, equals, content = pair.partition("=")
        if not equals:
            raise TaskError(f"'{pair}' in '{text}' is not name=value, such as r=8")
        option = option.strip()
        options[option] = content if option == "init_text" else parse_value(content.strip())
    made: Any = _KINDS[name.strip()]
    if made is PromptTuning and "num_virtual_tokens" not in options:
        raise TaskError(f"'{text}' does not say num_virtual_tokens=, how many there are to be")
    adapter: Adapter = made(**options)
    return adapter


def _spelt(name: str, adapter: Any) -> str:
    """Return an adapter as a command line writes it, defaults left out."""
    options = [
        f"{field.name}={_plain(getattr(adapter, field.name))}"
        for field in attrs.fields(type(adapter))
        if getattr(adapter, field.name) != field.default
    ]
    return f"{name}:{','.join(options)}" if options else name


def _plain(content: Any) -> str:
    if isinstance(content, tuple):
        return "[" + ",".join(f'"{part}"' for part in content) + "]"
    return str(content)
