from contextlib import contextmanager

import pytest
from exported import LLAMA, copied_bundle, tiny_bundle, tiny_run

from lmkit.saving.manifest import read_manifest

__all__ = ["copied_bundle", "tiny_bundle", "tiny_run"]


@pytest.fixture
def quick(tiny_bundle, monkeypatch):
    """Stand in for the seconds of tracing: the weights are the shared bundle's, so its graph is."""
    from lmkit.export import graph as tracing

    graph = read_manifest(tiny_bundle).graph
    contract = tracing.GraphContract(
        inputs=graph.inputs,
        outputs=graph.outputs,
        n_layers=graph.n_layers,
        heads=LLAMA["num_attention_heads"],
        kv_heads=graph.n_kv_heads,
        head_size=graph.head_size,
        cache_dtype="float32",
        hidden_size=LLAMA["hidden_size"],
        vocab_size=graph.vocab_size,
        context_length=graph.context_length,
        opset=tracing.OPSET,
    )

    @contextmanager
    def loaded(model):
        yield tracing.ir.load(tiny_bundle / "model.onnx"), contract

    monkeypatch.setattr(tracing, "traced_causal", loaded)
