"""Loss through torch: the mean over learned tokens, however they fall into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmkit.collating import Collator, padded
from lmkit.encoding import IGNORE, Encoded, Ids, texts_to_read
from lmkit.family import Family
from lmkit.loss import Loss
from lmkit.train.extra import torch
from lmkit.train.models import quiet

LogProbs = NDArray[np.float64]

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
    count = int((batch["labels"][:, 1 if family.shifts else 0 :] != IGNORE).sum())
    if count == 0:
        return Loss()
    with torch().inference_mode():
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        mean = model(**on_device, **_options(family)).loss
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
        logits = _logits(model, batch, Family.CAUSAL)
        logits = logits[:, -input_ids.shape[1] :]  # a soft prompt's places stand before the text's
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
