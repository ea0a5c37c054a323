"""Build a model from scratch: a config with random weights, which fits its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lmkit.errors import LmkitError, ModelError, UnknownName, UnknownOption
from lmkit.family import Family
from lmkit.scratch import Scratch
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import torch, transformers
from lmkit.train.heads import PAIR, head


def build(source: Scratch, tokenizer: Tokenizer, family: Family, seed: int) -> Any:
    """Return a model of random weights, its special ids the tokenizer's.

    Raises:
        ModelError: the config does not make a model of the family, or has no room for the tokenizer.
    """
    make = _pair_config if source.model_type == PAIR else _config
    with random_state(seed):
        try:
            model = head(family).from_config(make(source, tokenizer))
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            if isinstance(error, LmkitError):
                raise
            raise ModelError(f"'{source}' cannot be built: {error}") from error
    _check_embeddings(model, tokenizer, source)
    return model


@contextlib.contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Draw weights from a seed and leave the caller's random state as it was."""
    with torch().random.fork_rng(devices=[]):
        torch().manual_seed(seed)
        yield


def _config(source: Scratch, tokenizer: Tokenizer, **more: Any) -> Any:
    """Return a config of the source's values, its special ids the tokenizer's."""
    transformers_ = transformers()
    try:
        defaults = transformers_.AutoConfig.for_model(source.model_type)
    except ValueError as error:
        known = transformers_.models.auto.configuration_auto.CONFIG_MAPPING.keys()
        raise UnknownName("model type", source.model_type, known) from error
    known = {*defaults.to_dict(), *(defaults.attribute_map or {})}
    for name in source.config:
        if name not in known:
            raise UnknownOption(f"the {source.model_type} config", name, known)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    # Where a default repeats the id of a special token, that token is meant: BART starts with the EOS.
    meant = {getattr(defaults, name, None): found for name, found in reversed(ids.items())}
    for name in ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        default = getattr(defaults, name, None)
        if default is not None:
            ids[name] = meant.get(default)
    return type(defaults)(**{"vocab_size": tokenizer.vocab_size, **ids, **more, **source.config})


def _pair_config(source: Scratch, tokenizer: Tokenizer) -> Any:
    """Return the config of an encoder and a decoder that are two models of their own."""
    sides = {}
    for side in ("encoder", "decoder"):
        given = source.config.get(side)
        if not isinstance(given, Mapping) or "model_type" not in given:
            raise ModelError(
                f"'{source}' has no {side} with a model_type; expected such as "
                f'{side}={{"model_type":"bert","num_hidden_layers":2}}'
            )
        rest = {name: content for name, content in given.items() if name != "model_type"}
        sides[side] = Scratch(str(given["model_type"]), rest)
    own = {name: found for name, found in source.config.items() if name not in sides}
    known = ("encoder", "decoder", "decoder_start_token_id", "tie_word_embeddings")
    for name in own:
        if name not in known:
            raise UnknownOption(f"the {PAIR} config", name, known)
    return transformers().EncoderDecoderConfig.from_encoder_decoder_configs(
        _config(sides["encoder"], tokenizer),
        _config(sides["decoder"], tokenizer, is_decoder=True, add_cross_attention=True),
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.eos_id,
        **own,
    )


def _check_embeddings(model: Any, tokenizer: Tokenizer, source: Scratch) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"'{source}' has room for {rows} tokens and the tokenizer has {tokenizer.vocab_size}; "
            "leave vocab_size out"
        )
