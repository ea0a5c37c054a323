"""Make the special ids of a model, its tokenizer and its tasks agree.

What pads a row, what ends a text, what a decoder is given first: a model's config, its generation
config and the tokenizer's files each say it, and transformers' authors let them differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmkit.aligning import in_turn, with_stops
from lmkit.errors import TokenizerError
from lmkit.formatting import Formatter
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.heads import PAIR


def with_pad(tokenizer: Tokenizer, pad: str | None) -> Tokenizer:
    """Return a tokenizer that has a pad token; see `load_model`."""
    if pad is None:
        if tokenizer.pad_id is not None:
            return tokenizer
        pad = tokenizer.special.get("eos_token")
        if pad is None:
            raise TokenizerError(
                "the tokenizer has neither a pad nor an EOS token; give pad='[PAD]' to add one"
            )
    return tokenizer.with_special("pad_token", pad)


def align(model: Any, tokenizer: Tokenizer, formatter: Formatter) -> tuple[Tokenizer, list[int]]:
    """Make tokenizer, config and generation config agree on what ends a text and what pads it.

    A chat template may end turns with another token than the tokenizer's EOS. That token is what a
    trained model writes at the end, so it becomes the EOS everywhere; the old one still stops.

    Returns:
        The tokenizer, and the ids that stop generation, the EOS first.
    """
    tokenizer, stops = with_stops(tokenizer, formatter)
    ids = {
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
    }
    configs = [model.config]
    if hasattr(model, "generation_config"):  # a masked model generates nothing and has none
        configs.append(model.generation_config)
    for name, found in ids.items():
        if found is not None:
            for config in configs:
                setattr(config, name, found)
    if len(stops) > 1:
        model.generation_config.eos_token_id = stops
    if model.config.is_encoder_decoder:
        start = start_id(model, tokenizer)
        model.config.decoder_start_token_id = start
        model.generation_config.decoder_start_token_id = start
    return tokenizer, stops


def align_all(
    model: Any, tokenizer: Tokenizer, tasks: Sequence[Task]
) -> tuple[Tokenizer, list[int]]:
    """Align a model and its tokenizer with every task that it learns; see `align`.

    Those with a chat template come last, since theirs is the token that ends an answer from then on.

    Raises:
        TaskError: two tasks have unlike chat templates; a tokenizer can carry one only.
    """
    stops: list[int] = []
    for task in in_turn(tasks, tokenizer):
        tokenizer, stops = align(model, tokenizer, task.formatter)
    return tokenizer, stops


def start_id(model: Any, tokenizer: Tokenizer) -> int | None:
    """Return the token that a decoder is given first, in training and at inference.

    Where a model's files do not say it: T5 starts with the pad token, mBART with what ends a target
    (its labels are rolled round by one), and a pair of models with what opens a text.
    """
    for config in (model.config, model.generation_config):
        found = getattr(config, "decoder_start_token_id", None)
        if found is not None:
            return int(found)
    if model.config.model_type == "mbart":
        return tokenizer.closing_ids[-1] if tokenizer.closing_ids else tokenizer.eos_id
    if model.config.model_type == PAIR:  # which does not see the pad token when it trains
        return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return tokenizer.pad_id


def with_own_ids(task: Task, model: Any) -> Task:
    """Return the task with the ids that the model itself forces or forbids, where the task names none.

    BART ends every answer in its EOS, mBART starts it with a language, and Marian's weights were
    made without a pad token, whose logit of 0 beats all others: a model's own file says so.
    """
    config = getattr(model, "generation_config", None)  # a masked model has none
    own: dict[str, Any] = {
        name: found
        for name in ("forced_bos_token_id", "forced_eos_token_id")
        if getattr(task.generation, name) is None
        and isinstance(found := getattr(config, name, None), int)
    }
    if not task.generation.suppress_tokens and (forbidden := _forbidden_ids(config)):
        own["suppress_tokens"] = forbidden
    return task.evolve(generation=task.generation.override(**own)) if own else task


def _forbidden_ids(config: Any) -> tuple[int, ...]:
    """Return the ids that a generation config forbids; words of several tokens are not among them.

    Source: transformers' `NoBadWordsLogitsProcessor`, which lets end tokens pass.
    """
    listed = getattr(config, "suppress_tokens", None) or []
    words = getattr(config, "bad_words_ids", None) or []
    ends = config.eos_token_id if config is not None else None
    ends = ends if isinstance(ends, list) else [ends]
    bad = [word[0] for word in words if len(word) == 1 and word[0] not in ends]
    return tuple(dict.fromkeys(int(token) for token in (*listed, *bad)))


def stop_ids(model: Any) -> list[int]:
    """Return the ids at which a model's own generation config lets it stop."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return [int(token) for token in ids if token is not None]
