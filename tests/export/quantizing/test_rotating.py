"""A turned residual stream gives the same numbers from channels that are alike."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")

from lmkit.export.external import save_together  # noqa: E402
from lmkit.export.quantizing.rotating import rotate, rotation  # noqa: E402

VOCAB, WIDTH, INNER = 64, 48, 40
MICROSOFT = "com.microsoft"


def model(
    norm: str = "SimplifiedLayerNormalization",
    bias: bool = True,
    width: int = WIDTH,
    inner: int = INNER,
) -> ir.Model:
    """Return embedding -> norm -> product -> product [+ bias] -> skip norm -> the last logits, tied."""
    rng = np.random.default_rng(1)
    arrays = {
        "embedding": rng.standard_normal((VOCAB, width)),
        "scale.0": rng.random(width),
        "scale.1": rng.random(width),
        "up": rng.standard_normal((width, inner)),
        "down": rng.standard_normal((inner, width)),
        "bias": rng.standard_normal(width),
    }
    arrays["embedding"][:, 5] *= 30  # an outlier channel
    values = {
        name: ir.val(name, const_value=ir.tensor(array.astype(np.float32), name=name))
        for name, array in arrays.items()
    }
    for name, array in {"start": [-1], "end": [1 << 40], "axis": [1]}.items():
        values[name] = ir.val(name, const_value=ir.tensor(np.array(array), name=name))
    ids = ir.val("ids", dtype=ir.DataType.INT64, shape=["batch", "length"])
    nodes = []

    def add(kind: str, inputs: list, domain: str = "", outputs: int = 1, **attributes) -> ir.Node:
        node = ir.node(kind, inputs, attributes=attributes, domain=domain, num_outputs=outputs)
        nodes.append(node)
        return node

    rows = add("Gather", [values["embedding"], ids]).outputs[0]
    first = add(norm, [rows, values["scale.0"]], axis=-1, epsilon=1e-5).outputs[0]
    hidden = add("MatMul", [first, values["up"]]).outputs[0]
    written = add("MatMul", [hidden, values["down"]]).outputs[0]
    if bias:
        written = add("Add", [values["bias"], written]).outputs[0]
    cut = [values[name] for name in ("start", "end", "axis")]
    written, rows = (add("Slice", [value, *cut]).outputs[0] for value in (written, rows))
    skip = "SkipSimplifiedLayerNormalization"
    last = add(skip, [written, rows, values["scale.1"]], MICROSOFT, 4, epsilon=1e-5).outputs[0]
    logits = add("FusedMatMul", [last, values["embedding"]], MICROSOFT, transB=1).outputs[0]
    logits.name, logits.dtype = "logits", ir.DataType.FLOAT
    logits.shape = ir.Shape(["batch", 1, VOCAB])
    used = [value for value in values.values() if value.uses()]
    graph = ir.Graph(
        [ids], [logits], nodes=nodes, initializers=used, opset_imports={"": 20, MICROSOFT: 1}
    )
    return ir.Model(graph, ir_version=10)


def answer(model: ir.Model, folder, ids: np.ndarray | None = None) -> np.ndarray:
    save_together({folder / "model.onnx": model}, "model.onnx.data")
    session = ort.InferenceSession(str(folder / "model.onnx"))
    return session.run(None, {"ids": np.arange(24).reshape(2, 12) if ids is None else ids})[0]


@pytest.mark.parametrize("width", [48, 64, 576, 7])
def test_a_rotation_keeps_lengths_and_spreads_one_number_over_all(width):
    one = np.eye(width, dtype=np.float32)

    turned = rotation(width).turned(one)

    np.testing.assert_allclose(turned @ turned.T, one, atol=1e-5)
    assert np.abs(turned).max() < 1 if width > 1 else True
    np.testing.assert_allclose(rotation(width).turned(2 * one), 2 * turned)


@pytest.mark.parametrize("bias", [False, True])
def test_a_turned_graph_computes_the_same(tmp_path, bias):
    given = model(bias=bias)
    turned = given.clone()

    assert rotate(turned.graph)

    before, after = answer(given, tmp_path), answer(turned, tmp_path)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_the_given_weights_and_the_embedding_keep_their_numbers():
    given = model()
    turned = given.clone()
    rotate(turned.graph)

    names = ("up", "down", "bias", "embedding")
    before, after = (
        {name: graph.initializers[name].const_value.numpy() for name in names}
        for graph in (given.graph, turned.graph)
    )
    assert after["embedding"] is before["embedding"]
    assert all(not np.allclose(after[name], before[name]) for name in names[:3])


def test_what_reads_the_stream_gets_channels_that_are_alike():
    given = model()
    turned = given.clone()
    rotate(turned.graph)

    norm = next(node for node in turned.graph if node.op_type == "SimplifiedLayerNormalization")
    matrix = turned.graph.initializers["rotation"].const_value.numpy()
    rows = given.graph.initializers["embedding"].const_value.numpy()

    def crest(rows: np.ndarray) -> float:
        return float((np.abs(rows).max(-1) / np.sqrt(np.square(rows).mean(-1))).mean())

    assert norm.inputs[0].producer().inputs[1].name == "rotation"
    assert crest(rows @ matrix) < crest(rows) / 1.5


def test_a_graph_with_norms_that_subtract_the_mean_stays_as_it_is():
    given = model("LayerNormalization")
    n_nodes = len(list(given.graph))

    assert not rotate(given.graph)
    assert len(list(given.graph)) == n_nodes


def test_a_stream_that_something_else_reads_stays_as_it_is():
    given = model()
    seen = given.graph[0].outputs[0]
    given.graph.append(ir.node("Relu", [seen]))

    assert not rotate(given.graph)
