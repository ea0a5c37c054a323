"""Train on packed rows: prove that a model keeps them apart, and tell them apart again for a loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmkit.collating import Batch, text_batch
from lmkit.collating.packing import Packed, packed, packed_batch, places
from lmkit.encoding import IGNORE, Encoded, Ids
from lmkit.errors import ModelError
from lmkit.train.batches import as_tensors
from lmkit.train.extra import torch
from lmkit.train.quiet import quiet
from lmkit.train.wrapped import base_of, virtual_tokens

PROBED = 12  # tokens of a row that a model is tried with
# What logits may differ by, in parts of the largest one. Between a row alone and the row packed it is
# rounding, by the size of a number in bytes. What attention leaves out adds exact zeros, so another
# neighbour may change hardly a bit in half precision, too.
TOLERANCES, HALF_TOLERANCE = {4: 1e-3, 8: 1e-3}, 5e-2
NEIGHBOUR_TOLERANCE = 1e-5


def check_packing(model: Any, rows: Sequence[Encoded]) -> None:
    """Refuse a model in which packed rows would see each other, or stand at other places.

    The model reads a few rows alone, packed, and packed with other neighbours.

    Args:
        model: a transformers model, as it will be trained; its mode is left as it was.
        rows: a few of the rows that it will learn.
    Raises:
        ModelError: what a row gives depends on its neighbours; the text says what to do.
    """
    named = f"the {base_of(model).config.model_type} model"
    if virtual_tokens(model):
        raise ModelError(
            f"{named} has a soft prompt, which cannot stand before each of several rows in one; "
            "train it without pack"
        )
    if "position_ids" not in inspect.signature(base_of(model).forward).parameters:
        raise ModelError(
            f"{named} takes no position_ids, so rows cannot be packed for it; train it without pack"
        )
    was_training = model.training
    model.eval()
    try:
        with torch().inference_mode(), quiet():
            _check_rows(model, [row.input_ids[:PROBED] for row in rows], named)
    finally:
        model.train(was_training)


def _check_rows(model: Any, texts: Sequence[Ids], named: str) -> None:
    text, neighbour = texts[0], texts[-1]
    other = np.resize(text[::-1], len(neighbour))  # ids that the model surely takes
    alone = _logits(model, [text])
    beside, beside_other = (
        _logits(model, [before, text, before])[len(before) : len(before) + len(text)]
        for before in (neighbour, other)
    )
    scale = float(alone.abs().max())
    moved = float((beside - beside_other).abs().max())
    if not moved <= NEIGHBOUR_TOLERANCE * scale:
        raise ModelError(
            f"{named} lets packed rows see each other: with another neighbour a row's logits move by "
            f"{moved:.2g}, where the largest is {scale:.2g}; {_instead(model)}train it without pack"
        )
    differs = float((beside - alone).abs().max())
    if not differs <= TOLERANCES.get(alone.dtype.itemsize, HALF_TOLERANCE) * scale:
        raise ModelError(
            f"{named} reads a packed row otherwise than that row alone: logits differ by "
            f"{differs:.2g}, where the largest is {scale:.2g}; train it without pack"
        )


def _instead(model: Any) -> str:
    """Return what to try first, where another attention may keep rows apart."""
    plain = str(base_of(model).config._attn_implementation) in ("sdpa", "eager")
    return "" if plain else "load it with attn_implementation 'sdpa' or 'eager', or "


def _logits(model: Any, texts: Sequence[Ids]) -> Any:
    """Return the logits of texts that are packed, a tensor [T, V]; a single one is read plainly."""
    rows = [Encoded(text, text) for text in texts]
    batch = packed_batch([packed(rows)], pad_id=0)
    if len(texts) == 1:
        batch = text_batch(rows, pad_id=0)
    on_device = {name: tensor.to(model.device) for name, tensor in as_tensors(batch).items()}
    del on_device["labels"]
    return model(**on_device, use_cache=False).logits[0]


def reads_flat(model: Any) -> bool:
    """Say whether a model's attention keeps rows apart in a batch of one sequence alone."""
    return "flash" in str(base_of(model).config._attn_implementation)


def flat_batch(sequences: Sequence[Packed]) -> Batch:
    """Return sequences as a single one, int64 [1, N], so that nothing is padding.

    >>> row = Encoded(np.array([5, 6]), np.array([5, 6]))
    >>> batch = flat_batch([packed([row, row]), packed([row])])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 5, 6, 5, 6]], [[0, 1, 0, 1, 0, 1]])
    """
    lengths = np.concatenate([sequence.lengths for sequence in sequences])
    return {
        "input_ids": np.concatenate([sequence.input_ids for sequence in sequences])[None],
        "position_ids": places(lengths)[None],
        "labels": np.concatenate([sequence.labels for sequence in sequences])[None],
    }


def rows_apart(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a packed batch as if its rows had been padded instead, for losses that look at rows.

    Args:
        batch: tensors int64 [B, T], with the `position_ids` of packed rows.
    Returns:
        `input_ids`, `attention_mask` and `labels`, int64 [R, L], of the rows in which something is
        learned; and the place of each cell in the flattened batch, int64 [R, L], 0 in empty ones.
    """
    place = batch["position_ids"].flatten()
    row = (place == 0).cumsum(0) - 1
    cells = torch().full((int(row[-1]) + 1, int(place.max()) + 1), -1, device=place.device)
    cells[row, place] = torch().arange(len(place), device=place.device)
    labels = _picked(batch["labels"], cells, IGNORE)
    learns = (labels != IGNORE).any(dim=1)
    cells, labels = cells[learns], labels[learns]
    longest = int((cells >= 0).sum(dim=1).max()) if len(cells) else 1
    cells, labels = cells[:, :longest], labels[:, :longest]
    apart = {
        "input_ids": _picked(batch["input_ids"], cells, 0),
        "attention_mask": (cells >= 0).long(),
        "labels": labels,
    }
    return apart, cells.clamp(min=0)


def _picked(values: Any, cells: Any, fill: int) -> Any:
    return values.flatten()[cells.clamp(min=0)].masked_fill(cells < 0, fill)
