"""A quantised graph computes what its rounded weights say, and shares with the given graph what it keeps."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from lmkit.errors import UnknownName  # noqa: E402
from lmkit.export.external import save_together  # noqa: E402
from lmkit.export.quantizing import Store, quantize  # noqa: E402
from lmkit.export.quantizing.blocks import Format, blocked, restored  # noqa: E402

VOCAB, WIDTH = 256, 96
# MatMulNBits of accuracy level 4 rounds what it multiplies to 8 bits: half a step of 1/127 of each block's
# largest number, which is below 3 standard deviations; averaged over 96 terms.
TOLERANCE = 0.02


def tied_model(alpha: float = 1.0) -> ir.Model:
    """Return embedding -> norm-free layer [96, 192] -> [192, 96] -> logits from the tied embedding."""
    rng = np.random.default_rng(3)
    arrays = {
        "embedding": rng.standard_normal((VOCAB, WIDTH)).astype(np.float32),
        "up": rng.standard_normal((WIDTH, 2 * WIDTH)).astype(np.float32),
        "down": np.ascontiguousarray(rng.standard_normal((WIDTH, 2 * WIDTH)).astype(np.float32)).T,
        "bias": rng.standard_normal(WIDTH).astype(np.float32),
    }
    values = {name: ir.val(name, const_value=ir.tensor(array)) for name, array in arrays.items()}
    for name, value in values.items():
        value.const_value.name = name
    ids = ir.val("ids", dtype=ir.DataType.INT64, shape=["batch", "length"])
    looked_up = ir.node("Gather", [values["embedding"], ids])
    up = ir.node("MatMul", [looked_up.outputs[0], values["up"]])
    down = ir.node("MatMul", [up.outputs[0], values["down"]])
    added = ir.node("Add", [down.outputs[0], values["bias"]])
    logits = ir.node(
        "FusedMatMul",
        [added.outputs[0], values["embedding"]],
        attributes={"transB": 1, "alpha": alpha},
        domain="com.microsoft",
    )
    logits.outputs[0].name = "logits"
    logits.outputs[0].dtype = ir.DataType.FLOAT
    logits.outputs[0].shape = ir.Shape(["batch", "length", VOCAB])
    graph = ir.Graph(
        [ids],
        [logits.outputs[0]],
        nodes=[looked_up, up, down, added, logits],
        initializers=list(values.values()),
        opset_imports={"": 20, "com.microsoft": 1},
    )
    return ir.Model(graph, ir_version=10)


def answer(model: ir.Model, folder, name: str) -> np.ndarray:
    path = folder / f"{name}.onnx"
    save_together({path: model}, f"{name}.onnx.data")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.arange(12).reshape(2, 6)})[0]


def by_hand(model: ir.Model, format: Format, alpha: float) -> np.ndarray:
    """Multiply by the weights as they are rounded, in numpy."""
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    embedding = restored(blocked(arrays["embedding"], format))
    up, down = (restored(blocked(arrays[name].T, format)).T for name in ("up", "down"))
    hidden = embedding[np.arange(12).reshape(2, 6)] @ up @ down + arrays["bias"]
    return alpha * hidden @ embedding.T


def spread(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@pytest.mark.parametrize(
    ("precision", "format"),
    [("int4", Format(bits=4)), ("int8", Format(bits=8, block=64, zero_points=False))],
)
def test_a_tied_graph_answers_as_its_rounded_weights_do(tmp_path, precision, format, alpha):
    model = tied_model(alpha)
    found = answer(quantize(model, precision), tmp_path, precision)
    assert spread(found, by_hand(model, format, alpha)) < TOLERANCE


def test_the_given_graph_stays_as_it_is(tmp_path):
    model = tied_model()
    before = answer(model, tmp_path, "before")
    quantize(model, "int4")
    np.testing.assert_array_equal(answer(model, tmp_path, "after"), before)


def test_fp32_is_the_graph_itself():
    model = tied_model()
    assert quantize(model, "fp32") is model


def test_tied_weights_lie_in_the_file_once(tmp_path):
    answer(quantize(tied_model(), "int4"), tmp_path, "tied")
    numbers = VOCAB * WIDTH + 2 * WIDTH * 2 * WIDTH
    rounded = numbers * (4 + 32 / 32 + 4 / 32) / 8
    padding = 4096 * 9  # each tensor begins a page
    assert rounded < (tmp_path / "tied.onnx.data").stat().st_size < rounded + padding


def test_graphs_of_one_store_share_what_they_share(tmp_path):
    model = tied_model()
    store = Store()
    first, second = (quantize(model, "int4", store=store) for _ in range(2))
    for name, value in first.graph.initializers.items():
        assert np.shares_memory(
            value.const_value.numpy(), second.graph.initializers[name].const_value.numpy()
        )


def test_what_is_not_rounded_is_the_given_memory():
    model = tied_model()
    smaller = quantize(model, "int8")
    bias = model.graph.initializers["bias"].const_value.numpy()
    assert np.shares_memory(smaller.graph.initializers["bias"].const_value.numpy(), bias)
    assert "up" not in smaller.graph.initializers


def test_an_unknown_precision_is_refused_with_the_near_name():
    with pytest.raises(UnknownName, match=r"no precision named 'int44'\s+close to: int4"):
        quantize(tied_model(), "int44")
