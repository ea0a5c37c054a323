"""Where int4 loses too much, the weights at a model's ends are kept in int8, more with every rung."""

import numpy as np
import pytest

pytest.importorskip("onnxscript")

import itertools

import onnx_ir as ir

from lmkit.export.ladder import RUNGS, Rung, kept_higher, outer
from lmkit.export.quantizing import quantize
from lmkit.export.writing import Writer

N_LAYERS = 8


def stack(seed=0):
    """Return a graph of an embedding and products one after another, their weights in another order."""
    rng = np.random.default_rng(seed)
    named = {
        name: rng.normal(size=(128, 128)).astype(np.float32)
        for name in ("embed", *(f"w{layer}" for layer in reversed(range(N_LAYERS))))
    }
    initializers = {}
    for name, array in named.items():
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT)
        )
        value.const_value = ir.tensor(array, name=name)
        initializers[name] = value
    ids = ir.Value(name="ids", shape=ir.Shape(["B"]), type=ir.TensorType(ir.DataType.INT64))
    nodes = [ir.node("Gather", [initializers["embed"], ids])]
    for layer in range(N_LAYERS):
        nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], initializers[f"w{layer}"]]))
    for place, node in enumerate(nodes):
        node.outputs[0].name = f"x{place}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(["B", 128])
    graph = ir.Graph(
        [ids], nodes[-1].outputs, nodes=nodes, initializers=[*initializers.values()], name="g"
    )
    graph.opset_imports[""] = 20
    return ir.Model(graph, ir_version=10)


def test_the_first_rung_keeps_nothing():
    for rungs in RUNGS.values():
        assert kept_higher(rungs[0], stack().graph) == frozenset()
        assert str(rungs[0]) == ""


def test_others_keep_the_embedding_and_what_is_read_first_and_last():
    assert kept_higher(Rung(0.25), stack().graph) == {"embed", "w0", "w6", "w7"}


def test_each_keeps_what_the_one_before_did_and_more():
    kept = [kept_higher(rung, stack().graph) for rung in RUNGS["int4"]]

    assert all(less < more for less, more in itertools.pairwise(kept))


def test_no_name_is_taken_twice():
    assert outer(["a", "b", "c"], 1.0) == ["a", "b", "c"]
    assert outer(["a"], 0.5) == ["a"]


def bits(model):
    return sorted(
        node.attributes.get_int("bits", 4) for node in model.graph if node.op_type == "MatMulNBits"
    )


def test_what_is_kept_higher_has_8_bits_in_a_graph_of_4():
    model = stack()

    smaller = quantize(model, "int4", higher=kept_higher(Rung(0.25), model.graph))

    assert bits(smaller) == [4] * 5 + [8] * 3


def test_a_rung_is_written_over_the_one_before_and_says_what_it_kept(tmp_path):
    writer = Writer(tmp_path, ["int4"])
    writer.save_float32({"model.onnx": stack()})

    sizes = []
    for rung in writer.rungs("int4"):
        found = writer.save("int4", rung)
        sizes.append(found.size_bytes)
        assert found.plan == str(rung)
        graph = ir.load(tmp_path / "model.onnx")
        beside = {
            str(value.const_value.location)
            for value in graph.graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
        assert beside == {"model.onnx.data"}

    assert sizes == sorted(sizes)
    assert bits(graph).count(8) == 5
    writer.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
