"""Layers that are alike are traced a few times; the others are stamped, and compute what torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

from export.test_graph import (  # noqa: E402
    CASES,
    TOLERANCE,
    Runner,
    some_prompt,
    torch_logits,
    toy,
)
from lmkit.export import graph as tracing  # noqa: E402
from lmkit.export.stamping import TRACED, cut_down, stack_of  # noqa: E402

N_LAYERS = 7
DEEP = {
    "llama": {"num_hidden_layers": N_LAYERS},
    "gpt2": {"n_layer": N_LAYERS, "scale_attn_by_inverse_layer_idx": False},
}


def deep(kind: str, monkeypatch: pytest.MonkeyPatch, **settings: object):
    monkeypatch.setitem(CASES, kind, CASES[kind] | settings)
    return toy(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEEP)
def test_a_deep_model_is_traced_in_part_and_answers_as_torch(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = deep(kind, monkeypatch, **DEEP[kind]), some_prompt(12)
    traced = []
    original = tracing._trace
    monkeypatch.setattr(
        tracing, "_trace", lambda m, layers: traced.append(len(layers)) or original(m, layers)
    )

    contract = tracing.export_causal(model, tmp_path / "model.onnx")
    runner = Runner(tmp_path / "model.onnx", contract, rows=1, capacity=16)
    logits = runner.step(np.array([prompt[:10]]), [0], [10])[0]
    further = runner.step(np.array([prompt[10:]]), [10], [2])[0]

    assert traced == [TRACED]
    assert contract.n_layers == model.config.num_hidden_layers == N_LAYERS
    np.testing.assert_allclose(
        np.concatenate([logits, further]), torch_logits(model, prompt), rtol=0, atol=TOLERANCE
    )


def test_layers_that_differ_are_all_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = deep("llama", monkeypatch, num_hidden_layers=N_LAYERS)
    assert stack_of(alike, N_LAYERS) == "model.layers"

    alike.model.layers[5].self_attn.use_rope = False  # as SmolLM3 has it

    assert stack_of(alike, N_LAYERS) is None


def test_layers_of_several_types_are_all_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    types = ["sliding_attention"] * (N_LAYERS - 1) + ["full_attention"]

    model = deep("gemma2", monkeypatch, num_hidden_layers=N_LAYERS, layer_types=types)

    assert stack_of(model, N_LAYERS) is None


def test_a_model_is_whole_again_behind_a_trace_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep("llama", monkeypatch, num_hidden_layers=N_LAYERS)

    with pytest.raises(ZeroDivisionError), cut_down(model, "model.layers"):
        len(model.model.layers) / (model.config.num_hidden_layers - TRACED)

    assert len(model.model.layers) == model.config.num_hidden_layers == N_LAYERS
