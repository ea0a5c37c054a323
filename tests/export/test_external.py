import numpy as np
import pytest

pytest.importorskip("onnxscript")

import onnx_ir as ir
import onnxruntime as ort

from lmkit.export.external import SMALLEST, save_together


def product(weight, *, transposed=False):
    """Return a graph that multiplies by a weight."""
    array = weight.T if transposed else weight
    constant = ir.Value(
        name="w", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    constant.const_value = ir.tensor(array, name="w")
    x = ir.Value(
        name="x", shape=ir.Shape([1, array.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    node = ir.node("MatMul", [x, constant])
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[constant], name="g")
    graph.opset_imports[""] = 20
    return ir.Model(graph, ir_version=10)


def run(path, size):
    session = ort.InferenceSession(str(path))
    return session.run(None, {"x": np.ones((1, size), np.float32)})[0]


@pytest.fixture
def weight():
    return np.arange(32 * 40, dtype=np.float32).reshape(32, 40)


def test_a_weight_of_two_graphs_lies_in_the_file_once(tmp_path, weight):
    save_together({tmp_path / "a": product(weight), tmp_path / "b": product(weight)}, "data")

    assert (tmp_path / "data").stat().st_size == weight.nbytes
    for name in ("a", "b"):
        np.testing.assert_allclose(run(tmp_path / name, 32)[0], weight.sum(axis=0))


def test_the_same_memory_read_in_another_way_is_another_weight(tmp_path, weight):
    graphs = {tmp_path / "a": product(weight), tmp_path / "b": product(weight, transposed=True)}

    save_together(graphs, "data")

    np.testing.assert_allclose(run(tmp_path / "a", 32)[0], weight.sum(axis=0))
    np.testing.assert_allclose(run(tmp_path / "b", 40)[0], weight.sum(axis=1))


def test_equal_numbers_in_other_memory_are_another_weight(tmp_path, weight):
    save_together({tmp_path / "a": product(weight), tmp_path / "b": product(weight.copy())}, "data")

    assert (tmp_path / "data").stat().st_size > weight.nbytes


def test_what_is_small_stays_in_its_graph(tmp_path):
    weight = np.ones((4, 4), np.float32)
    assert weight.nbytes < SMALLEST

    save_together({tmp_path / "a": product(weight)}, "data")

    assert (tmp_path / "data").stat().st_size == 0
    np.testing.assert_allclose(run(tmp_path / "a", 4), [[4, 4, 4, 4]])
