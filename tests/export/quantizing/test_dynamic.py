"""Integer products give what numpy gives for rows and columns rounded each by itself."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from lmkit.export.external import save_together  # noqa: E402
from lmkit.export.quantizing.dynamic import RowKernel, by_column  # noqa: E402
from lmkit.export.quantizing.weights import weights  # noqa: E402

ROWS, WIDTH = 5, 64
N_OUT = (96, 32)


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.standard_normal((WIDTH, n_out)).astype(np.float32) for n_out in N_OUT]


@pytest.fixture(scope="module")
def session(arrays, tmp_path_factory):
    """Return two products of one value, in integers."""
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["batch", "length", WIDTH])
    held = [
        ir.val(f"w{number}", const_value=ir.tensor(array, name=f"w{number}"))
        for number, array in enumerate(arrays)
    ]
    nodes = [ir.node("MatMul", [x, value]) for value in held]
    for number, node in enumerate(nodes):
        node.outputs[0].name, node.outputs[0].dtype = f"y{number}", ir.DataType.FLOAT
        node.outputs[0].shape = ir.Shape(["batch", "length", N_OUT[number]])
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(
        [x], outputs, nodes=nodes, initializers=held, opset_imports={"": 20, "com.microsoft": 1}
    )
    kernel = RowKernel()
    for weight in weights(graph):
        kernel.rewrite(graph, weight, kernel.stored(weight))
    assert [node.op_type for node in graph].count("QuantizeLinear") == 1
    path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
    save_together({path: ir.Model(graph, ir_version=10)}, "model.onnx.data")
    return ort.InferenceSession(str(path))


def rows(scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (scale * rng.standard_normal((2, ROWS, WIDTH))).astype(np.float32)


def by_hand(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Round rows and columns to 127 steps and multiply the integers."""
    step = np.abs(x).max(-1, keepdims=True) / 127
    scale = np.abs(weight).max(0) / 127
    product = np.rint(x / step) @ np.rint(weight / scale)
    return product * step * scale


def test_products_are_those_of_rounded_rows_and_columns(session, arrays):
    x = rows()
    found = session.run(None, {"x": x})
    for array, product in zip(arrays, found, strict=True):
        expected = by_hand(x.astype(np.float64), array.astype(np.float64))
        # A number halfway between two steps may be rounded the other way in float32.
        np.testing.assert_allclose(product, expected, atol=0.1)
        assert np.linalg.norm(product - x @ array) < 0.02 * np.linalg.norm(x @ array)


def test_a_row_is_not_touched_by_its_neighbours(session):
    x = rows()
    x[0, 0] *= 1000
    together = session.run(None, {"x": x})
    alone = [session.run(None, {"x": x[1:, row : row + 1]}) for row in range(ROWS)]
    for number, found in enumerate(together):
        apart = np.concatenate([results[number] for results in alone], axis=1)
        np.testing.assert_array_equal(found[1:], apart)


def test_a_row_of_zeros_gives_zeros(session):
    x = rows()
    x[0, 2] = 0
    for found in session.run(None, {"x": x}):
        np.testing.assert_array_equal(found[0, 2], 0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_size_of_the_rows_does_not_matter(session, scale):
    small, large = session.run(None, {"x": rows()}), session.run(None, {"x": rows(scale)})
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(other, scale * one, rtol=0.02, atol=0.05 * scale)


def test_a_column_of_zeros_stays_zero():
    weight = np.zeros((3, WIDTH), np.float32)
    weight[1] = np.linspace(-2, 1, WIDTH)

    stored = by_column(weight)

    assert not stored.data[:, [0, 2]].any()
    assert stored.data[0, 1] == -127
    np.testing.assert_allclose(stored.data.T * stored.scales[:, None], weight, atol=1 / 127)
