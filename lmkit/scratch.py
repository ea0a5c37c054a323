"""A model to be built from a configuration, with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from lmkit.errors import ModelError


@attrs.frozen
class Scratch:
    """What to build: a transformers model type, and the configuration's values.

    Attributes:
        model_type: transformers' name for the architecture, such as `gpt2` or `llama`.
        config: values that differ from the configuration's defaults.
    """

    model_type: str
    config: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        pairs = (f"{name}={_written(content)}" for name, content in self.config.items())
        return ",".join([f"scratch:{self.model_type}", *pairs])


def _written(content: Any) -> str:
    """Return a value as a command line has it: what is nested as JSON, without spaces."""
    if isinstance(content, (Mapping, list, tuple)):
        return json.dumps(content, separators=(",", ":"))
    return str(content)


def scratch(model_type: str, **config: Any) -> Scratch:
    """Return a model to be trained from random weights.

    Nothing is built yet; the vocabulary size and the special ids come from the tokenizer.

    Args:
        model_type: transformers' name for the architecture, such as `gpt2` or `llama`.
        config: values of its configuration, such as `n_layer=4`; unknown ones are refused when the
            model is built. An `encoder-decoder` has two: `encoder={"model_type": "bert", ...}` and
            `decoder={...}`.

    >>> str(scratch("gpt2", n_layer=4))
    'scratch:gpt2,n_layer=4'
    """
    return Scratch(model_type, config)


def parse_scratch(text: str) -> Scratch:
    """Return the model that a command line's `scratch:gpt2,n_layer=4` means.

    Raises:
        ModelError: a part is not `name=value`.
    """
    model_type, *pairs = _split(text.removeprefix("scratch:"))
    config = {}
    for pair in pairs:
        name, equals, content = pair.partition("=")
        if not equals:
            raise ModelError(f"'{pair}' in '{text}' is not name=value, such as n_layer=4")
        config[name.strip()] = parse_value(content.strip())
    return Scratch(model_type.strip(), config)


def _split(text: str) -> list[str]:
    """Split at commas; one in brackets is part of a value, as in layer_types=["a","b"].

    >>> _split('a,b={"c":[1,2],"d":3},e')
    ['a', 'b={"c":[1,2],"d":3}', 'e']
    """
    depth, start, parts = 0, 0, []
    for place, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def parse_value(text: str) -> Any:
    """Return what a value typed on the command line means: JSON where it is JSON, text otherwise.

    >>> parse_value("3e-5"), parse_value("true"), parse_value("cosine")
    (3e-05, True, 'cosine')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)
