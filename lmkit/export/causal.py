"""Export a causal model: one graph for prefill and decode, and genai's configuration beside it.

A soft prompt goes beside the graph as keys and values, `prefix.npy`; genai cannot be given any.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from lmkit.errors import ExportError
from lmkit.export import graph
from lmkit.export.genai import write_genai_config
from lmkit.export.parity import agree, compare
from lmkit.export.reference import refer
from lmkit.export.source import Source
from lmkit.export.writing import Save
from lmkit.saving.manifest import Graph, Prefix
from lmkit.train.adapting import is_soft_prompt, key_value_prefix
from lmkit.train.wrapped import base_of

GRAPH_FILE, PREFIX_FILE = "model.onnx", "prefix.npy"

__all__ = ["agree", "check", "compare", "refer", "write"]


def check(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be exported, before any work; see `graph.check_exportable`."""
    graph.check_exportable(model)


def write(part: Path, source: Source, save: Save) -> Graph:
    """Write what stands beside the graph, have the graph saved, and return what a runtime must know."""
    with graph.traced_causal(base_of(source.model)) as (whole, contract):
        save({GRAPH_FILE: whole})
    prefix = None
    if is_soft_prompt(source.model):
        prefix = _write_prefix(part, contract, key_value_prefix(source.model))
    else:
        write_genai_config(part, contract, source.task, source.tokenizer, source.stops)
    taken, most = prefix.n_tokens if prefix else 0, contract.context_length
    return Graph(
        file=GRAPH_FILE,
        inputs=contract.inputs,
        outputs=contract.outputs,
        n_layers=contract.n_layers,
        n_kv_heads=contract.kv_heads,
        head_size=contract.head_size,
        vocab_size=contract.vocab_size,
        context_length=None if most is None else most - taken,
        prefix=prefix,
    )


def _write_prefix(part: Path, contract: graph.GraphContract, prefix: np.ndarray) -> Prefix:
    """Write a soft prompt's keys and values, float32 [layers, 2, KV, n, D]."""
    n_tokens = prefix.shape[3]
    shape = (contract.n_layers, 2, contract.kv_heads, n_tokens, contract.head_size)
    if prefix.shape != shape:
        raise ExportError(
            f"the soft prompt left keys and values of the shape {list(prefix.shape)}, and the graph "
            f"takes {list(shape)}; this architecture keeps them in another way"
        )
    np.save(part / PREFIX_FILE, prefix, allow_pickle=False)
    return Prefix(file=PREFIX_FILE, n_tokens=n_tokens)
