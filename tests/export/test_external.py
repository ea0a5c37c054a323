import numpy as np
import pytest

pytest.importorskip("onnxscript")

import onnx_ir as ir
import onnxruntime as ort

from lmkit.export import external
from lmkit.export.external import ALIGNMENT, SMALLEST, Weights


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


def places(path):
    """Return the file, offset and length of a graph's weights that lie beside it."""
    tensors = [value.const_value for value in ir.load(path).graph.initializers.values()]
    return [(str(t.location), t.offset, t.length) for t in tensors if hasattr(t, "location")]


def test_a_weight_of_two_graphs_lies_in_the_file_once(tmp_path, weight):
    Weights(tmp_path).save({"a": product(weight), "b": product(weight)}, "data")

    assert (tmp_path / "data").stat().st_size == weight.nbytes
    for name in ("a", "b"):
        np.testing.assert_allclose(run(tmp_path / name, 32)[0], weight.sum(axis=0))


def test_equal_bytes_in_other_memory_are_the_same_weight(tmp_path, weight):
    Weights(tmp_path).save({"a": product(weight), "b": product(weight.copy())}, "data")

    assert places(tmp_path / "a") == places(tmp_path / "b")


def test_the_same_memory_read_in_another_way_is_another_weight(tmp_path, weight):
    graphs = {"a": product(weight), "b": product(weight, transposed=True)}

    Weights(tmp_path).save(graphs, "data")

    np.testing.assert_allclose(run(tmp_path / "a", 32)[0], weight.sum(axis=0))
    np.testing.assert_allclose(run(tmp_path / "b", 40)[0], weight.sum(axis=1))


def test_what_an_earlier_precision_wrote_is_read_from_its_file(tmp_path, weight):
    weights = Weights(tmp_path)
    first = weights.save({"a": product(weight)}, "a.data")
    second = weights.save({"b": product(weight.copy())}, "b.data")

    assert places(tmp_path / "b") == [("a.data", 0, weight.nbytes)]
    assert not (tmp_path / "b.data").exists(), "nothing in it is new"
    assert first == (tmp_path / "a").stat().st_size + weight.nbytes
    assert second == (tmp_path / "b").stat().st_size + weight.nbytes
    np.testing.assert_allclose(run(tmp_path / "b", 32)[0], weight.sum(axis=0))


def test_every_weight_begins_a_page_so_that_it_can_be_mapped(tmp_path, weight):
    Weights(tmp_path).save({"a": product(weight), "b": product(weight + 1)}, "data")

    offsets = [offset for name in ("a", "b") for _, offset, _ in places(tmp_path / name)]
    assert offsets == [0, 2 * ALIGNMENT]


def test_a_weight_larger_than_a_piece_is_written_whole(tmp_path, weight, monkeypatch):
    monkeypatch.setattr(external, "PIECE", 1000)

    Weights(tmp_path).save({"a": product(weight)}, "data")

    assert (tmp_path / "data").read_bytes() == weight.tobytes()


def test_numbers_of_four_bits_are_written_two_in_a_byte(tmp_path):
    numbers = np.arange(4096, dtype=np.uint8) % 16
    graph = product(np.ones((32, 40), np.float32))
    value = ir.Value(name="q", shape=ir.Shape([4096]), type=ir.TensorType(ir.DataType.UINT4))
    value.const_value = ir.tensor(numbers, dtype=ir.DataType.UINT4, name="q")
    graph.graph.register_initializer(value)

    Weights(tmp_path).save({"a": graph}, "data")

    (_, offset, length) = next(place for place in places(tmp_path / "a") if place[2] == 2048)
    raw = np.frombuffer((tmp_path / "data").read_bytes()[offset : offset + length], np.uint8)
    np.testing.assert_array_equal(np.stack([raw & 15, raw >> 4], axis=1).ravel(), numbers)


def test_once_written_a_weight_is_read_from_the_file(tmp_path, weight):
    """So what held it before, such as a torch model, may be freed."""
    graph = product(weight)
    Weights(tmp_path).save({"a": graph}, "data")
    expected = weight.copy()
    weight[:] = 0

    (value,) = graph.graph.initializers.values()
    np.testing.assert_array_equal(value.const_value.numpy(), expected)


def test_what_is_small_stays_in_its_graph(tmp_path):
    weight = np.ones((4, 4), np.float32)
    assert weight.nbytes < SMALLEST

    Weights(tmp_path).save({"a": product(weight)}, "data")

    assert not (tmp_path / "data").exists()
    np.testing.assert_allclose(run(tmp_path / "a", 4), [[4, 4, 4, 4]])
