import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lmkit.benching.weights import bytes_per_token
from lmkit.errors import BundleError


def graph(nodes, weights, tmp_path, *, external):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(made),
        path,
        save_as_external_data=external,
        location="model.onnx.data",
        size_threshold=0,
    )
    return path


TABLE = np.zeros((100, 8), np.float32)
HEAD = np.zeros((8, 100), np.float32)
LOOK_UP = helper.make_node("Gather", ["table", "ids"], ["x"])


@pytest.mark.parametrize("external", [True, False])
def test_a_table_counts_by_the_row_and_a_product_whole(tmp_path, external):
    nodes = [LOOK_UP, helper.make_node("MatMul", ["x", "head"], ["out"])]
    path = graph(nodes, {"table": TABLE, "head": HEAD}, tmp_path, external=external)

    assert bytes_per_token(path) == 8 * 4 + 8 * 100 * 4


def test_a_table_that_is_the_head_too_counts_once(tmp_path):
    nodes = [
        LOOK_UP,
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "head"], ["out"]),
    ]

    assert bytes_per_token(graph(nodes, {"table": TABLE}, tmp_path, external=True)) == 8 * 100 * 4


def test_what_lies_in_one_place_counts_once(tmp_path):
    nodes = [LOOK_UP, helper.make_node("MatMul", ["x", "head"], ["out"])]
    path = graph(nodes, {"table": TABLE, "head": HEAD}, tmp_path, external=True)
    model = onnx.load(path, load_external_data=False)
    table, head = model.graph.initializer
    del head.external_data[:]
    head.external_data.extend(table.external_data)
    onnx.save(model, path)

    assert bytes_per_token(path) == 8 * 100 * 4


def test_packed_numbers_count_by_their_bits(tmp_path):
    nodes = [LOOK_UP, helper.make_node("MatMulNBits", ["x", "head", "scales"], ["out"])]
    packed = np.zeros((100, 1, 4), np.uint8)
    scales = np.zeros(100, np.float16)
    path = graph(
        nodes, {"table": TABLE, "head": packed, "scales": scales}, tmp_path, external=False
    )

    assert bytes_per_token(path) == 32 + 400 + 200


def test_what_is_no_graph_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a\xff\xff\xff\xff\x0fnothing")

    with pytest.raises(BundleError, match="cannot be read as an ONNX graph"):
        bytes_per_token(path)
