"""Rows of tokens as a graph's inputs, so that what its weights multiply can be measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

LONGEST = 256  # tokens of a row that are read together; longer rows are cut


def feeds(graph: ir.Graph, rows: Iterable[np.ndarray]) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the inputs of a graph that reads whole texts, one row at a time and nothing before it.

    Args:
        graph: a causal model's or an encoder's. Of others, such as a decoder that reads another graph's
            keys, there are none.
        rows: ids, int64 [T] each.
    """
    if not _reads_texts(graph):
        return
    past = {
        str(value.name): _nothing(value)
        for value in graph.inputs
        if str(value.name).startswith("past_key_values.")
    }
    for row in rows:
        ids = np.asarray(row[:LONGEST], np.int64)[None]
        if ids.size:
            whole = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.arange(ids.shape[1])[None],
            }
            named = {value.name for value in graph.inputs}
            yield {**{name: one for name, one in whole.items() if name in named}, **past}


def _reads_texts(graph: ir.Graph) -> bool:
    """Say whether a graph reads ids and otherwise only what is known of them."""
    own = [str(value.name) for value in graph.inputs if value.name not in graph.initializers]
    rest = [name for name in own if not name.startswith("past_key_values.")]
    return "input_ids" in rest and not set(rest) - {"input_ids", "attention_mask", "position_ids"}


def _nothing(value: ir.Value) -> np.ndarray:
    """Return the keys or values of no token, float32 [1, H, 0, D]."""
    shape = value.shape
    assert shape is not None
    assert value.dtype is not None
    return np.zeros((1, int(shape[1]), 0, int(shape[3])), value.dtype.numpy())
