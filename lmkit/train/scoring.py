"""Loss through torch: the mean over learned tokens, however they fall into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmkit.encoding import IGNORE
from lmkit.family import Family
from lmkit.loss import Loss
from lmkit.train.extra import torch
from lmkit.train.models import quiet


def batch_loss(model: Any, batch: Mapping[str, Any], family: Family = Family.CAUSAL) -> Loss:
    """Return one batch's loss, summed, with the number of tokens it is over.

    The model's own loss is a mean over the tokens that have a label (and, where the head shifts, a
    token before them), so it is turned back into a sum.

    Args:
        model: a transformers model in evaluation mode.
        batch: tensors int64 [B, T], labels among them.
        family: how the model reads a row.
    """
    count = int((batch["labels"][:, 1 if family.shifts else 0 :] != IGNORE).sum())
    if count == 0:
        return Loss()
    with torch().inference_mode():
        read = {name: tensor for name, tensor in batch.items() if name != "group"}
        on_device = {name: tensor.to(model.device) for name, tensor in read.items()}
        mean = model(**on_device, **({} if family is Family.MASKED else {"use_cache": False})).loss
    return Loss(float(mean) * count, count)


def mean_loss(
    model: Any, batches: Iterable[Mapping[str, Any]], family: Family = Family.CAUSAL
) -> Loss:
    """Return the loss over all batches; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with quiet():
            return sum((batch_loss(model, batch, family) for batch in batches), Loss())
    finally:
        model.train(was_training)
