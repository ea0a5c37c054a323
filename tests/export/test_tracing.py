"""A graph that has been written keeps nothing of the torch model alive."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("transformers")

from export.test_graph import toy
from lmkit.export import graph
from lmkit.export.writing import Writer


@pytest.mark.slow
def test_the_torch_models_weights_are_freed_with_the_model(tmp_path: Path) -> None:
    model = toy("llama")
    weights = [weakref.ref(weight) for weight in model.parameters()]
    writer = Writer(tmp_path, ("int4",))

    with graph.traced_causal(model) as (traced, _):
        writer.save_float32({"model.onnx": traced})
    del model, traced
    gc.collect()

    assert not [weight for weight in weights if weight() is not None]
