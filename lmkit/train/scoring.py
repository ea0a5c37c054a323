"""Loss through torch: the mean over learned tokens, however they fall into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lmkit.answering.logits import LogProbs
from lmkit.answering.loss import Loss
from lmkit.collating import Collator, padded
from lmkit.encoding import IGNORE, Encoded, Ids, texts_to_read
from lmkit.errors import ModelError
from lmkit.family import Family
from lmkit.losses import BatchLoss
from lmkit.train import ranks
from lmkit.train.extra import torch
from lmkit.train.packing import rows_apart
from lmkit.train.quiet import quiet
from lmkit.train.wrapped import virtual_tokens

TEXTS_AT_ONCE = 8  # scored in one forward pass, which bounds the logits in memory


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


def token_log_probs(
    model: Any, rows: Sequence[Encoded], collator: Collator, pad_id: int
) -> list[LogProbs]:
    """Return the log-probability of each row's learned tokens, float64 [L] a row.

    Args:
        model: a transformers model; it is put in evaluation mode.
        rows: B rows of the collator's family.
        collator: what makes a batch of them.
        pad_id: the id for empty cells.
    """
    model.eval()
    with torch().inference_mode(), quiet():
        if collator.family is Family.CAUSAL:
            return _causal_log_probs(model, rows, pad_id)
        found: list[LogProbs] = []
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            part = rows[start : start + TEXTS_AT_ONCE]
            logits = _logits(model, collator.collate(part, pad_id), collator.family)
            for row, row_logits in zip(part, logits, strict=True):
                at = np.flatnonzero(row.labels != IGNORE)
                found.append(_picked(row_logits[at], row.labels[at]))
        return found


def _causal_log_probs(model: Any, rows: Sequence[Encoded], pad_id: int) -> list[LogProbs]:
    texts, which = texts_to_read(rows)
    found: dict[int, LogProbs] = {}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        input_ids, mask = padded(part, pad_id)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        # A soft prompt's places stand before the rows' own.
        logits = _logits(model, batch, Family.CAUSAL)[:, -input_ids.shape[1] :]
        for index, row in enumerate(rows):
            if start <= which[index] < start + len(part):
                at = np.flatnonzero(row.labels[1:] != IGNORE)
                found[index] = _picked(logits[which[index] - start, at], row.labels[1:][at])
    return [found[index] for index in range(len(rows))]


def _logits(model: Any, batch: Mapping[str, Ids], family: Family) -> Any:
    """Return a batch's logits, a tensor [B, T, V]."""
    on_device = {name: torch().from_numpy(array).to(model.device) for name, array in batch.items()}
    return model(**on_device, **_options(family)).logits


def _options(family: Family) -> dict[str, bool]:
    """Return what a forward pass is told besides its batch: a masked model keeps no cache."""
    return {} if family is Family.MASKED else {"use_cache": False}


def _picked(logits: Any, token_ids: Ids) -> LogProbs:
    """Return the log-probability of one token, int64 [L], in each row of logits [L, V]."""
    log_probs = torch().log_softmax(logits.double(), dim=-1).cpu().numpy()
    picked: LogProbs = log_probs[np.arange(len(token_ids)), token_ids]
    return picked


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
    learned, so that label is left out. Packed rows are told apart only where there is no cache.

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
    if "position_ids" in batch:
        options = {**options, "use_cache": False}
    return model(**batch, **options)


def own_loss(
    task_loss: BatchLoss, batch: Mapping[str, Any], logits: Any, family: Family
) -> tuple[Any, Any]:
    """Return the sum and the count of a task's own loss over a batch."""
    if "position_ids" in batch:
        batch, cells = rows_apart(batch)
        logits = logits.flatten(0, 1)[cells]
    places, labels = aligned(logits, batch["labels"], family)
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    mask = torch().ones_like(ids) if mask is None else mask
    return task_loss.total(places, labels, ids, mask), task_loss.count(labels)


def _scored(
    model: Any, batch: Mapping[str, Any], family: Family, task_loss: BatchLoss | None = None
) -> tuple[Loss, Loss]:
    count = int((batch["labels"][:, 1 if family.shifts else 0 :] != IGNORE).sum())
    if count == 0 and ranks.world_size() == 1:  # of several, all must read as often
        return Loss(), Loss()
    with torch().inference_mode():
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        found = forward(model, on_device, family, **_options(family))
        tokens = Loss(float(found.loss) * count, count) if count else Loss()
        if task_loss is None:
            return tokens, Loss()
        total, parts = own_loss(task_loss, on_device, found.logits, family)
    return tokens, Loss(float(total), int(parts))
