"""Export a causal model: one graph for prefill and decode, and genai's configuration beside it."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from lmkit.export import graph
from lmkit.export.genai import write_genai_config
from lmkit.export.parity import check_parity as compare
from lmkit.export.source import Source
from lmkit.manifest import Graph

GRAPH_FILE = "model.onnx"

__all__ = ["check", "compare", "write"]


def check(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be exported, before any work; see `graph.check_exportable`."""
    graph.check_exportable(model)


def write(part: Path, source: Source) -> Graph:
    """Write the graph into a bundle that is being made, and return what the runtime must know."""
    contract = graph.export_causal(source.model, part / GRAPH_FILE)
    write_genai_config(part, contract, source.task, source.tokenizer, source.stops)
    return Graph(
        file=GRAPH_FILE,
        inputs=contract.inputs,
        outputs=contract.outputs,
        n_layers=contract.n_layers,
        n_kv_heads=contract.kv_heads,
        head_size=contract.head_size,
        vocab_size=contract.vocab_size,
        context_length=contract.context_length,
    )
