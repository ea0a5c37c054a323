"""Loss through torch: the mean over learned tokens, however they fall into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lmkit.encoding import IGNORE
from lmkit.errors import ModelError
from lmkit.family import Family
from lmkit.loss import Loss
from lmkit.losses import BatchLoss
from lmkit.train.extra import torch
from lmkit.train.models import quiet, virtual_tokens


def batch_loss(model: Any, batch: Mapping[str, Any], family: Family = Family.CAUSAL) -> Loss:
    """Return one batch's loss, summed, with the number of tokens it is over.

    The model's own loss is a mean over the tokens that have a label (and, where the head shifts, a
    token before them), so it is turned back into a sum.

    Args:
        model: a transformers model in evaluation mode.
        batch: tensors int64 [B, T], labels among them.
        family: how the model reads a row.
    """
    return _scored(model, batch, family)[0]


def mean_loss(
    model: Any, batches: Iterable[Mapping[str, Any]], family: Family = Family.CAUSAL
) -> Loss:
    """Return the loss over all batches; the model is left in the mode it was in."""
    return mean_losses(model, batches, family, None)[0]


def mean_losses(
    model: Any, batches: Iterable[Mapping[str, Any]], family: Family, task_loss: BatchLoss | None
) -> tuple[Loss, Loss]:
    """Return the loss over all batches, and the task's own, which is empty where it names none."""
    was_training = model.training
    model.eval()
    tokens, task = Loss(), Loss()
    try:
        with quiet():
            for batch in batches:
                more, of_task = _scored(model, batch, family, task_loss)
                tokens, task = tokens + more, task + of_task
    finally:
        model.train(was_training)
    return tokens, task


def aligned(logits: Any, labels: Any, family: Family) -> tuple[Any, Any]:
    """Return logits [B, L, V] and labels [B, L] of which each predicts the one at its own place.

    Args:
        logits: a model's, float [B, n + T, V]; a soft prompt's n places stand before the labels'.
        labels: int64 [B, T].
        family: a head that shifts has nothing that predicts a row's first label.
    """
    logits = logits[:, -labels.shape[1] :]
    return (logits[:, :-1], labels[:, 1:]) if family.shifts else (logits, labels)


def forward(model: Any, batch: Mapping[str, Any], family: Family, **options: Any) -> Any:
    """Return a model's output for a batch, its labels included; a mixture's groups stay outside.

    Behind a soft prompt something would predict a row's first label, which is nowhere counted as
    learned, so that label is left out.

    Raises:
        ModelError: the rows are packed, and only the first of them would stand behind a soft prompt.
    """
    if "position_ids" in batch and virtual_tokens(model):  # peft would leave them out
        raise ModelError(
            "a soft prompt cannot stand before each of several rows in one; do not pack"
        )
    batch = {name: tensor for name, tensor in batch.items() if name != "group"}
    if family.shifts:
        batch["labels"] = batch["labels"].clone()
        batch["labels"][:, 0] = IGNORE
    return model(**batch, **options)


def own_loss(
    task_loss: BatchLoss, batch: Mapping[str, Any], logits: Any, family: Family
) -> tuple[Any, Any]:
    """Return the sum and the count of a task's own loss over a batch."""
    places, labels = aligned(logits, batch["labels"], family)
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = torch().ones_like(ids) if mask is None else mask
    return task_loss.total(places, labels, ids, mask), task_loss.count(labels)


def _scored(
    model: Any, batch: Mapping[str, Any], family: Family, task_loss: BatchLoss | None = None
) -> tuple[Loss, Loss]:
    count = int((batch["labels"][:, 1 if family.shifts else 0 :] != IGNORE).sum())
    if count == 0:
        return Loss(), Loss()
    with torch().inference_mode():
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        options = {} if family is Family.MASKED else {"use_cache": False}
        found = forward(model, on_device, family, **options)
        tokens = Loss(float(found.loss) * count, count)
        if task_loss is None:
            return tokens, Loss()
        total, parts = own_loss(task_loss, on_device, found.logits, family)
    return tokens, Loss(float(total), int(parts))
