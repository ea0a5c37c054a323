"""Find or build the model and its tokenizer, and make their special ids agree."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.errors import (
    LmkitError,
    ModelError,
    TaskError,
    TokenizerError,
    UnknownName,
    UnknownOption,
)
from lmkit.family import Family
from lmkit.formatting import Formatter
from lmkit.scratch import Scratch, parse_scratch
from lmkit.task import Task
from lmkit.tokenizing import TOKENIZER_FILE, Tokenizer
from lmkit.train.extra import torch, transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAIR = "encoder-decoder"  # transformers' name for two models of their own, one reading the other
ADAPTER_CONFIG = "adapter_config.json"  # peft's name for what is in an adapter's folder

_HEADS = {
    Family.CAUSAL: "AutoModelForCausalLM",
    Family.MASKED: "AutoModelForMaskedLM",
    Family.SEQ2SEQ: "AutoModelForSeq2SeqLM",
}


@attrs.frozen
class Loaded:
    """A model with the tokenizer that belongs to it.

    Attributes:
        model: the transformers model, float32 unless it was given loaded.
        tokenizer: the tokenizer, with a pad token.
        name: how the user named the model.
        base: of a model with a new adapter beside it, the `name` to find it by and a `fingerprint`.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    name: str
    base: dict[str, str] | None = None


def load_model(
    source: Any,
    *,
    family: Family,
    tokenizer: Any = None,
    pad: str | None = None,
    seed: int = 42,
    grows: bool = True,
) -> Loaded:
    """Load or build a model and its tokenizer.

    Args:
        source: a hub id, a local folder, a `.gguf` file, `scratch(...)` or its text form, or a
            loaded model. A folder may hold an adapter; the model comes with it.
        family: which head the model needs.
        tokenizer: a folder, a tokenizer.json or a loaded tokenizer; None for the model's own.
        pad: the pad token. None keeps the tokenizer's, or reuses its EOS, which is safe because
            labels follow lengths. A token that does not exist is added, the embeddings resized.
        seed: for random weights.
        grows: whether the embeddings may grow; those of an adapter's base may not.
    Raises:
        ModelError: the model cannot be found, read or built, or would have to grow.
        TokenizerError: there is no tokenizer for it.
    """
    if isinstance(source, str) and source.startswith("scratch:"):
        source = parse_scratch(source)
    if isinstance(source, Scratch):
        if tokenizer is None:
            raise TokenizerError(
                f"{source} has no tokenizer of its own; name one with tokenizer=, a folder or "
                "train_tokenizer(kind='bpe', data=...) (--tokenizer bpe:8000)"
            )
        ready = with_pad(_with_ends(Tokenizer.load(tokenizer), family), pad)
        model = _build(source, ready, family, seed)
        _check_embeddings(model, ready, str(source))
        return Loaded(model, ready, str(source))
    model, own = open_model(source, family)
    found = Tokenizer.load(tokenizer if tokenizer is not None else own())
    ready = with_pad(_with_ends(found, family), pad)
    _fit_embeddings(model, ready, seed, grows=grows and not is_adapted(model))
    return Loaded(model, ready, _name(source))


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


def _with_ends(tokenizer: Tokenizer, family: Family) -> Tokenizer:
    """Return a tokenizer that names what starts and ends a target, if its frame shows it.

    BERT's has no BOS and no EOS, and puts every text between `[CLS]` and `[SEP]`.
    """
    if family is Family.SEQ2SEQ:
        for role, framing in (("eos_token", "sep_token"), ("bos_token", "cls_token")):
            if role not in tokenizer.special and framing in tokenizer.special:
                tokenizer = tokenizer.with_special(role, tokenizer.special[framing])
    return tokenizer


def align(model: Any, tokenizer: Tokenizer, formatter: Formatter) -> tuple[Tokenizer, list[int]]:
    """Make tokenizer, config and generation config agree on what ends a text and what pads it.

    A chat template may end turns with another token than the tokenizer's EOS. That token is what a
    trained model writes at the end, so it becomes the EOS everywhere; the old one still stops.

    Returns:
        The tokenizer, and the ids that stop generation, the EOS first.
    """
    stops = [
        found
        for token in formatter.stop_tokens(tokenizer.dialect)
        if (found := tokenizer.token_to_id(token)) is not None
    ]
    if tokenizer.eos_id is not None:
        stops.append(tokenizer.eos_id)
    stops = list(dict.fromkeys(stops))
    if stops and stops[0] != tokenizer.eos_id:
        tokenizer = tokenizer.with_special("eos_token", tokenizer.id_to_token(stops[0]))
    template = formatter.chat_template(tokenizer.dialect)
    if template is not None:
        tokenizer = tokenizer.with_template(template)
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
    """Return the task with the ids that the model itself forces, where the task names none.

    BART ends every answer in its EOS, mBART starts it with a language: a model's own file says so.
    """
    forced = getattr(model, "generation_config", None)  # a masked model has none
    own = {
        name: found
        for name in ("forced_bos_token_id", "forced_eos_token_id")
        if getattr(task.generation, name) is None
        and isinstance(found := getattr(forced, name, None), int)
    }
    return task.evolve(generation=task.generation.override(**own)) if own else task


def align_all(
    model: Any, tokenizer: Tokenizer, tasks: Sequence[Task]
) -> tuple[Tokenizer, list[int]]:
    """Align a model and its tokenizer with every task that it learns; see `align`.

    Those with a chat template come last, since theirs is the token that ends an answer from then on.

    Raises:
        TaskError: two tasks have unlike chat templates; a tokenizer can carry one only.
    """
    templates = {task.name: task.formatter.chat_template(tokenizer.dialect) for task in tasks}
    chats = [task for task in tasks if templates[task.name] is not None]
    for task in chats[1:]:
        if templates[task.name] != templates[chats[0].name]:
            raise TaskError(
                f"'{chats[0].name}' and '{task.name}' have unlike chat templates, and a model's "
                "tokenizer carries one; give both the same, as in Chat(template='chatml')"
            )
    stops: list[int] = []
    for task in sorted(tasks, key=lambda task: templates[task.name] is not None):
        tokenizer, stops = align(model, tokenizer, task.formatter)
    return tokenizer, stops


def stop_ids(model: Any) -> list[int]:
    """Return the ids at which a model's own generation config lets it stop."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return [int(token) for token in ids if token is not None]


def context_length(model: Any) -> int | None:
    """Return the most tokens a model can hold behind its soft prompt, where its config says so.

    Of an encoder-decoder they are a source's.
    """
    return _positions(model, "encoder")


def target_length(model: Any) -> int | None:
    """Return the most tokens of an encoder-decoder's target, where its config says so."""
    return _positions(model, "decoder")


def _positions(model: Any, side: str) -> int | None:
    pair = model.config.model_type == PAIR
    config = getattr(model.config, side) if pair else model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    # RoBERTa and its like count positions from the one behind the pad token's id.
    counting = (m for m in model.modules() if hasattr(m, "create_position_ids_from_input_ids"))
    before = next((module.padding_idx + 1 for module in counting), 0)
    return int(found) - int(before) - virtual_tokens(model)


def is_adapted(model: Any) -> bool:
    """Say whether a model is one of peft's: a base, and an adapter beside it."""
    return hasattr(model, "get_base_model")


def base_of(model: Any) -> Any:
    """Return the transformers model itself; one without an adapter is that."""
    return model.get_base_model() if is_adapted(model) else model


def virtual_tokens(model: Any) -> int:
    """Return how many places a model's soft prompt takes; none where it has no such adapter."""
    found = getattr(model, "peft_config", None) or {}
    return sum(int(getattr(config, "num_virtual_tokens", None) or 0) for config in found.values())


def fitted(task: Task, model: Any) -> Task:
    """Return the task with rows no longer than the model can read."""
    collator = task.collator.within(context_length(model), target_length(model))
    return task if collator == task.collator else task.evolve(collator=collator)


@contextlib.contextmanager
def only_config(model: Any, config: Any) -> Iterator[Any]:
    """Let `generate()` follow this generation config alone.

    transformers fills what a given config leaves unset from the model's own file, where an author
    may have put a repetition penalty or a temperature that nobody asked for here.
    """
    both = {id(each): each for each in (model, base_of(model))}.values()
    own = [each.generation_config for each in both]
    try:
        for each in both:  # peft hands its own on to what it thinks is the base: not always so
            each.generation_config = config
        yield config
    finally:
        for each, settings in zip(both, own, strict=True):
            each.generation_config = settings


def _build(source: Scratch, tokenizer: Tokenizer, family: Family, seed: int) -> Any:
    make = _pair_config if source.model_type == PAIR else _config
    with random_state(seed):
        try:
            config = make(source, tokenizer)
            return getattr(transformers(), _HEADS[family]).from_config(config)
        except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
            if isinstance(error, LmkitError):
                raise
            raise ModelError(f"'{source}' cannot be built: {error}") from error


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


@contextlib.contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Draw weights from a seed and leave the caller's random state as it was."""
    with torch().random.fork_rng(devices=[]):
        torch().manual_seed(seed)
        yield


def open_model(source: Any, family: Family) -> tuple[Any, Any]:
    """Return a model and a function that finds its tokenizer."""
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "get_input_embeddings"):
            raise ModelError(f"a {type(source).__name__} is not a transformers model")
        return source, lambda: _missing_tokenizer(source)
    path = Path(source)
    if path.suffix == ".gguf":
        return _open_gguf(path, family)
    if not path.is_dir() and (path.is_absolute() or str(source).startswith(".")):
        raise ModelError(f"there is no model folder '{source}'")
    if (path / ADAPTER_CONFIG).is_file():
        from lmkit.train.adapting import open_adapter

        return open_adapter(path, family)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"'{source}' is not a model folder: it has no config.json")
    model = _from_pretrained(str(source), family)
    if (path / TOKENIZER_FILE).is_file():
        return model, lambda: path
    return model, lambda: _auto_tokenizer(str(source))


def _open_gguf(path: Path, family: Family) -> tuple[Any, Any]:
    """Load a GGUF file's weights, dequantized, into a model that can be saved again.

    Workaround: transformers 5.23 keeps a quantization config on a model read from GGUF, and its
    save_pretrained then refuses. A model built from a clean config takes the weights over.
    Delete this when such a model can be saved.
    """
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    folder, file = str(path.parent), path.name
    read = _from_pretrained(folder, family, gguf_file=file)
    config = type(read.config).from_dict(
        {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    config.dtype = "float32"
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    return model, lambda: _auto_tokenizer(folder, gguf_file=file)


def _from_pretrained(source: str, family: Family, **options: Any) -> Any:
    head = getattr(transformers(), _HEADS[family])
    try:
        with quiet():
            model, report = head.from_pretrained(
                source, dtype="float32", output_loading_info=True, **options
            )
    except Exception as error:  # damaged files, missing packages, the hub: they share no base
        raise ModelError(f"the model '{source}' cannot be loaded: {error}") from error
    if lacking := sorted(report["missing_keys"]):
        raise ModelError(
            f"'{source}' has no weights for {', '.join(lacking[:3])}"
            f"{' and others' if len(lacking) > 3 else ''}, so they would be random; "
            f"is it a {family} model?"
        )
    return model


def _auto_tokenizer(source: str, **options: Any) -> Any:
    try:
        with quiet():
            return transformers().AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # as above
        raise TokenizerError(
            f"'{source}' has no tokenizer that can be loaded ({error}); name one with tokenizer="
        ) from error


def _missing_tokenizer(source: Any) -> Any:
    raise TokenizerError(f"a loaded {type(source).__name__} needs its tokenizer: give tokenizer=")


def _check_embeddings(model: Any, tokenizer: Tokenizer, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"'{name}' has room for {rows} tokens and the tokenizer has {tokenizer.vocab_size}; "
            "leave vocab_size out"
        )


def _fit_embeddings(model: Any, tokenizer: Tokenizer, seed: int, *, grows: bool) -> None:
    """Grow the embeddings if the tokenizer has more tokens than they have rows; never shrink."""
    pair = model.config.model_type == PAIR
    for part in (model.encoder, model.decoder) if pair else (model,):
        if tokenizer.vocab_size <= part.get_input_embeddings().weight.shape[0]:
            continue
        if not grows:
            raise ModelError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model fewer rows of "
                "embeddings, which an adapter leaves as they are; name as pad a token that is there, "
                "or none (labels follow lengths, so the EOS serves well), or train without an adapter"
            )
        with quiet(), random_state(seed):
            part.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
            if getattr(part.config, "share_encoder_decoder_embeddings", True) is False:
                part.resize_decoder_token_embeddings(tokenizer.vocab_size)


# What the libraries warn about beside their own work; drop a line once its cause is gone upstream.
_KNOWN_WARNINGS = (
    "Version v4.12.0",  # EncoderDecoderModel of its loss in 2021, whenever it is given labels
    "Position ids are not supported",  # generate() brings them, and it counts its own
    "`is_gradient_checkpointing` is deprecated",  # it asks transformers in an old way
    "fan_in_fan_out is set to False",  # said of GPT-2's layers, and then set right
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and peft's bars and notices out of the terminal for a while."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, Path)) else type(source).__name__
