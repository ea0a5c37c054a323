"""Integer products give what numpy gives for rows and columns rounded each by itself."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from lmkit.export.external import save_together  # noqa: E402
from lmkit.export.quantizing import quantize  # noqa: E402
from lmkit.export.quantizing.dynamic import RowKernel, by_column  # noqa: E402
from lmkit.export.quantizing.weights import weights  # noqa: E402

from .test_rotating import answer, model  # noqa: E402

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


def operators(graph: ir.Graph) -> list[str]:
    return [node.op_type for node in graph]


def test_int8_of_a_graph_with_rms_norms_multiplies_integers_and_answers_alike(tmp_path):
    given = model(width=128, inner=192)
    smaller = quantize(given, "int8")

    assert operators(smaller.graph).count("MatMulIntegerToFloat") == 2
    assert "MatMulIntegerToFloat" not in operators(quantize(given, "int4").graph)
    before, after = answer(given, tmp_path), answer(smaller, tmp_path)
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


def test_an_answer_does_not_depend_on_its_neighbours_in_the_batch(tmp_path):
    smaller = quantize(model(width=128, inner=192), "int8")
    ids = np.arange(48).reshape(4, 12)

    together = answer(smaller.clone(), tmp_path, ids)
    alone = answer(smaller.clone(), tmp_path, ids[2:3])

    # The float32 products may add in another order for another number of rows.
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())


def test_int8_of_a_graph_with_other_norms_stays_in_blocks():
    smaller = quantize(model("LayerNormalization", width=128, inner=192), "int8")

    assert operators(smaller.graph).count("MatMulNBits") == 2


def test_mixed_neighbours_give_the_same_product_and_survive_an_outlier():
    rng = np.random.default_rng(4)
    array = rng.standard_normal((WIDTH, 32)).astype(np.float32)
    rows = rng.standard_normal((1, ROWS, WIDTH)).astype(np.float32)
    rows[:, :, 7] = 300
    found = {}
    for size in (1, 16):
        x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["batch", "length", WIDTH])
        held = ir.val("w", const_value=ir.tensor(array, name="w"))
        node = ir.node("MatMul", [x, held])
        node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
        node.outputs[0].shape = ir.Shape(["batch", "length", 32])
        versions = {"": 20, "com.microsoft": 1}
        graph = ir.Graph(
            [x], node.outputs, nodes=[node], initializers=[held], opset_imports=versions
        )
        kernel = RowKernel(mixed=size)
        for weight in weights(graph):
            kernel.rewrite(graph, weight, kernel.stored(weight))
        made = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        product = ort.InferenceSession(made).run(None, {"x": rows})[0]
        rest = np.linalg.norm(np.delete(rows, 7, -1) @ np.delete(array, 7, 0))
        found[size] = np.linalg.norm(product - rows @ array) / rest

    assert found[16] < found[1] / 1.5
