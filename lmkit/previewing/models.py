"""Read what a preview needs of a model: its tokenizer, and how long a row it reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.aligning import aligned
from lmkit.errors import MissingExtra, TokenizerError
from lmkit.scratch import Scratch, parse_scratch
from lmkit.task import Task
from lmkit.tokenizing import TOKENIZER_FILE, Tokenizer

# Models that count positions from the one behind the pad token's id. Source: the classes of
# transformers 5.23 with `create_position_ids_from_input_ids`.
_COUNT_FROM_PAD = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
# Models whose positions are relative, whatever `n_positions` says.
_RELATIVE = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}


@attrs.frozen
class Reading:
    """A model as far as a preview needs it.

    Attributes:
        tokenizer: its tokenizer, as training makes it.
        tasks: the tasks, with rows no longer than it reads.
        name: what it is called.
    """

    tokenizer: Tokenizer
    tasks: tuple[Task, ...]
    name: str


def reading(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> Reading:
    """Return a model's tokenizer as training makes it, and the tasks fitted to the model.

    Args:
        model: a hub id, a folder, a `.gguf` file or `scratch(...)`, or None.
        tokenizer: a folder, a tokenizer.json or a loaded tokenizer; None for the model's own.
        tasks: those that are to be previewed together.
    Raises:
        TokenizerError: there is no tokenizer.
        ModelError: there is no such model.
        MissingExtra: the model can be read by transformers only, which is not installed.
    """
    if isinstance(model, str) and model.startswith("scratch:"):
        model = parse_scratch(model)
    own, config = (None, {}) if model is None else _opened(model)
    if tokenizer is None and own is None:
        raise TokenizerError(
            "a preview needs a tokenizer: name a model that has one, or give tokenizer= (--tokenizer)"
        )
    source = own if tokenizer is None else tokenizer
    fitted = [
        task.evolve(collator=task.collator.within(positions(config), positions(config, "decoder")))
        for task in tasks
    ]
    ready = aligned(Tokenizer.load(source), tasks)
    return Reading(ready, tuple(fitted), _name(source if model is None else model))


def _opened(model: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return a model's tokenizer, if it has one, and what its config says."""
    if isinstance(model, Scratch):
        return None, {"model_type": model.model_type, **model.config}
    if not isinstance(model, (str, Path)):
        return None, model.config.to_dict()
    path = Path(model)
    if (path / TOKENIZER_FILE).is_file():
        return path, read_config(path)
    try:
        from lmkit.train.models import open_tokenizer

        return open_tokenizer(str(model))
    except ModuleNotFoundError as error:
        raise MissingExtra(f"reading the tokenizer of '{model}'", "train", error.name) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's config.json; empty if there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def positions(config: Mapping[str, Any], side: str = "encoder") -> int | None:
    """Return the most tokens of a text that a model's config allows, if it says so.

    Args:
        config: a config.json's content.
        side: of a pair of models, which.
    """
    config = config.get(side, config)
    config = config.get("text_config", config)
    kind = config.get("model_type")
    found = config.get("max_position_embeddings")
    if found is None and kind not in _RELATIVE:
        found = config.get("n_positions")
    if not isinstance(found, int) or found <= 0:
        return None
    if kind in _COUNT_FROM_PAD:
        found -= int(config.get("pad_token_id", 1) or 0) + 1
    return found


def _name(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return os.fspath(source)
    return str(source) if isinstance(source, Scratch) else type(source).__name__
