"""A graph that has been written keeps nothing of the torch model alive."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

from torch.multiprocessing.reductions import StorageWeakRef

from export.test_graph import toy
from lmkit.export import graph
from lmkit.export.writing import Writer


@pytest.mark.slow
def test_the_torch_models_weights_are_freed_with_the_model(tmp_path: Path) -> None:
    model = toy("llama")
    # The memory, not the parameters: one array of it is enough to keep a whole checkpoint's file mapped.
    weights = {
        name: StorageWeakRef(weight.untyped_storage()) for name, weight in model.named_parameters()
    }
    writer = Writer(tmp_path, ("int4",))

    with graph.traced_causal(model) as (traced, _):
        writer.save_float32({"model.onnx": traced})
    del model, traced
    gc.collect()

    assert not [name for name, memory in weights.items() if not memory.expired()]
