"""Loss through torch: the mean over learned tokens, however they fall into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmkit.encoding import IGNORE
from lmkit.loss import Loss
from lmkit.train.extra import torch
from lmkit.train.models import quiet


def batch_loss(model: Any, batch: Mapping[str, Any]) -> Loss:
    """Return one batch's loss, summed, with the number of tokens it is over.

    The model's own loss is a mean over the tokens that have a label and a token before them, so it
    is turned back into a sum.

    Args:
        model: a causal transformers model in evaluation mode.
        batch: tensors int64 [B, T], labels among them.
    """
    count = int((batch["labels"][:, 1:] != IGNORE).sum())
    if count == 0:
        return Loss()
    with torch().inference_mode():
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        mean = model(**on_device, use_cache=False).loss
    return Loss(float(mean) * count, count)


def mean_loss(model: Any, batches: Iterable[Mapping[str, Any]]) -> Loss:
    """Return the loss over all batches; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with quiet():
            return sum((batch_loss(model, batch) for batch in batches), Loss())
    finally:
        model.train(was_training)
