"""Where int4 loses too much, weights are kept in int8 by what they do, more of them with every rung."""

import numpy as np
import pytest

pytest.importorskip("onnxscript")

import itertools

import onnx_ir as ir

from lmkit.export.ladder import RUNGS, Rung, kept_higher
from lmkit.export.quantizing import quantize
from lmkit.export.writing import NOTHING_ROUNDED, Writer

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


def layers(n_layers=3, width=64):
    """Return an embedding and layers of a product that widens and one that narrows; its head is tied."""
    rng = np.random.default_rng(1)

    def weight(name, *shape):
        array = rng.normal(size=shape).astype(np.float32)
        return ir.val(name, const_value=ir.tensor(array, name=name))

    embed = weight("embed", 256, width)
    ids = ir.val("ids", dtype=ir.DataType.INT64, shape=["B"])
    nodes, held = [ir.node("Gather", [embed, ids])], [embed]
    for layer in range(n_layers):
        wide = weight(f"wide{layer}", width, 4 * width)
        narrow = weight(f"narrow{layer}", 4 * width, width)
        held += [narrow, wide]  # not in the order in which they are read
        nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], wide]))
        nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], narrow]))
    nodes.append(
        ir.node(
            "FusedMatMul",
            [nodes[-1].outputs[0], embed],
            attributes={"transB": 1},
            domain="com.microsoft",
        )
    )
    logits = nodes[-1].outputs[0]
    logits.name, logits.dtype = "logits", ir.DataType.FLOAT
    graph = ir.Graph([ids], [logits], nodes=nodes, initializers=held, name="g")
    graph.opset_imports.update({"": 20, "com.microsoft": 1})
    return ir.Model(graph, ir_version=10)


NARROW = {"narrow0", "narrow1", "narrow2"}


def test_the_first_rung_keeps_nothing_but_some_of_int4s_that_close_a_layer():
    for rungs in RUNGS.values():
        assert str(rungs[0]) == ""
    assert kept_higher(RUNGS["int8"][0], layers().graph) == frozenset()
    assert kept_higher(RUNGS["int4"][0], layers(9).graph) == {
        f"narrow{layer}" for layer in (1, 2, 4, 5, 7, 8)
    }


def test_others_keep_what_closes_a_layer_then_embedding_and_logits_then_some_of_the_rest():
    first, second, third = (kept_higher(rung, layers().graph) for rung in RUNGS["int4"][1:])

    assert first == NARROW
    assert second == {*NARROW, "embed"}
    assert third == {*NARROW, "embed", "wide1"}


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_of_the_others_is_spread_over_the_layers(share):
    kept = kept_higher(Rung(others=share), stack().graph)

    places = [int(name[1:]) for name in kept if name != "embed"]
    assert len(kept) == int(share * (N_LAYERS + 1))
    assert max(places) >= N_LAYERS - 1 / share


def test_every_rung_keeps_what_the_one_before_did_and_more():
    kept = [kept_higher(rung, layers().graph) for rung in RUNGS["int4"]]

    assert all(less < more for less, more in itertools.pairwise(kept))


def bits(model):
    return sorted(
        node.attributes.get_int("bits", 4) for node in model.graph if node.op_type == "MatMulNBits"
    )


def test_what_is_kept_higher_has_8_bits_in_a_graph_of_4():
    model = stack()

    smaller = quantize(model, "int4", higher={"w0", "w7"})

    assert bits(smaller) == [4] * 6 + [8] * 2


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
    assert bits(graph).count(8) == 4
    writer.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_precision_in_which_nothing_is_rounded_says_so(tmp_path, precision):
    writer = Writer(tmp_path, ["fp32", precision])
    writer.save_float32({"model.onnx": layers(width=8)})
    assert not writer.has_large

    found = writer.save(precision, writer.rungs(precision)[0])

    assert found.plan == NOTHING_ROUNDED
    assert found.size_bytes == writer.float32.size_bytes
