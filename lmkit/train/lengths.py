"""How long a text a model can read or write, and a task fitted to it."""

from __future__ import annotations

from typing import Any

from lmkit.task import Task
from lmkit.train.heads import PAIR
from lmkit.train.wrapped import virtual_tokens


def context_length(model: Any) -> int | None:
    """Return the most tokens a model can hold behind its soft prompt, where its config says so.

    Of an encoder-decoder they are a source's.
    """
    return _positions(model, "encoder")


def target_length(model: Any) -> int | None:
    """Return the most tokens of an encoder-decoder's target, where its config says so."""
    return _positions(model, "decoder")


def fitted(task: Task, model: Any) -> Task:
    """Return the task with rows no longer than the model can read."""
    collator = task.collator.within(context_length(model), target_length(model))
    return task if collator == task.collator else task.evolve(collator=collator)


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
