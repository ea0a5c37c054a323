"""Find a model and its tokenizer, or build them, and fit one to the other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.aligning import with_ends
from lmkit.errors import ModelError, TokenizerError
from lmkit.family import Family
from lmkit.scratch import Scratch, parse_scratch
from lmkit.tokenizing import TOKENIZER_FILE, Tokenizer
from lmkit.train.building import build, random_state
from lmkit.train.extra import transformers
from lmkit.train.heads import PAIR, head
from lmkit.train.quiet import quiet, quiet_gguf
from lmkit.train.special import with_pad
from lmkit.train.wrapped import ADAPTER_CONFIG, is_adapted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        ready = with_pad(with_ends(Tokenizer.load(tokenizer), family), pad)
        return Loaded(build(source, ready, family, seed), ready, str(source))
    model, own = open_model(source, family)
    found = Tokenizer.load(tokenizer if tokenizer is not None else own())
    ready = with_pad(with_ends(found, family), pad)
    _fit_embeddings(model, ready, seed, grows=grows and not is_adapted(model))
    return Loaded(model, ready, _name(source))


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


def open_tokenizer(source: str) -> tuple[Any, dict[str, Any]]:
    """Return a model's tokenizer and its config's content; no weight is read.

    Args:
        source: a hub id, a folder, or a .gguf file.
    Raises:
        ModelError: there is no such model.
        TokenizerError: it has no tokenizer that can be loaded.
    """
    path, options = Path(source), {}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file '{path}'")
        source, options = str(path.parent), {"gguf_file": path.name}
    configs = transformers().AutoConfig
    try:
        with quiet(), quiet_gguf():
            config = configs.from_pretrained(source, **options)
    except Exception as error:  # as above
        raise ModelError(f"the model '{source}' cannot be found: {error}") from error
    with quiet_gguf():
        return _auto_tokenizer(source, **options), config.to_dict()


def _open_gguf(path: Path, family: Family) -> tuple[Any, Any]:
    """Load a GGUF file's weights, dequantized, into a model that can be saved again.

    Workaround: transformers 5.23 keeps a quantization config on a model read from GGUF, and its
    save_pretrained then refuses. A model built from a clean config takes the weights over.
    Delete this when such a model can be saved.
    """
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    folder, file = str(path.parent), path.name
    with quiet_gguf():
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


# How transformers begins to say that a model has no head of a class; every kind that has one follows.
_OTHER_KIND = re.compile(r"Unrecognized configuration class <class '[\w.]*\b(\w+)'>")


def _from_pretrained(source: str, family: Family, **options: Any) -> Any:
    found = head(family)
    try:
        with quiet():
            model, report = found.from_pretrained(
                source, dtype="float32", output_loading_info=True, **options
            )
    except Exception as error:  # damaged files, missing packages, the hub: they share no base
        if kind := _OTHER_KIND.match(str(error)):
            raise ModelError(
                f"'{source}' cannot be loaded as a {family} model: transformers knows no such head "
                f"for its {kind[1]}; choose a task of the model's own family"
            ) from error
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


def _name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, Path)) else type(source).__name__
