"""What weights multiply is measured as a mean of x x^T, and 4-bit weights are rounded by it."""

from __future__ import annotations

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from lmkit.export.quantizing import quantize  # noqa: E402
from lmkit.export.quantizing.blocks import Format, blocked, restored  # noqa: E402
from lmkit.export.quantizing.calibrating import second_moments  # noqa: E402
from lmkit.export.quantizing.feeding import LONGEST, feeds  # noqa: E402

VOCAB, WIDTH = 64, 160


def reader(inputs=("input_ids", "attention_mask")) -> ir.Model:
    """Return embedding -> [160, 192] of a graph that takes these inputs."""
    rng = np.random.default_rng(3)
    arrays = {
        "embedding": rng.standard_normal((VOCAB, WIDTH)).astype(np.float32),
        # Some inputs are always large, as in real models.
        "up": rng.standard_normal((WIDTH, 192)).astype(np.float32),
    }
    arrays["embedding"][:, :7] *= 12
    values = {
        name: ir.val(name, const_value=ir.tensor(array, name=name))
        for name, array in arrays.items()
    }
    taken = [ir.val(name, dtype=ir.DataType.INT64, shape=["B", "T"]) for name in inputs]
    looked_up = ir.node("Gather", [values["embedding"], taken[0]])
    up = ir.node("MatMul", [looked_up.outputs[0], values["up"]])
    up.outputs[0].name, up.outputs[0].dtype = "states", ir.DataType.FLOAT
    graph = ir.Graph(
        taken,
        [up.outputs[0]],
        nodes=[looked_up, up],
        initializers=list(values.values()),
        opset_imports={"": 20, "com.microsoft": 1},
    )
    return ir.Model(graph, ir_version=10)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCAB, length) for length in (40, 9, 300)]


def test_moments_are_those_that_numpy_finds_over_all_tokens_of_all_rows():
    model = reader()
    embedding = model.graph.initializers["embedding"].const_value.numpy()
    read = np.concatenate([embedding[row[:LONGEST]] for row in texts()]).astype(np.float64)

    found = second_moments(model, feeds(model.graph, texts()))

    assert set(found) == {"up"}
    (moments,) = found["up"]
    np.testing.assert_allclose(moments, read.T @ read / len(read), rtol=1e-4, atol=1e-3)


def test_the_given_graph_keeps_its_outputs():
    model = reader()
    second_moments(model, feeds(model.graph, texts()))
    assert [value.name for value in model.graph.outputs] == ["states"]


def test_a_weight_rounded_by_what_it_multiplies_gives_products_nearer_to_its_own():
    model = reader()
    arrays = {name: one.const_value.numpy() for name, one in model.graph.initializers.items()}
    moments = second_moments(model, feeds(model.graph, texts()))["up"]
    own, read = arrays["up"].T, arrays["embedding"]

    def error(weight):
        return float(np.square(read @ (weight - own).T).mean())

    apart, together = (restored(blocked(own, Format(bits=4), known)) for known in (None, moments))
    assert error(together) < 0.7 * error(apart)


def test_quantize_rounds_by_them():
    model = reader()
    moments = second_moments(model, feeds(model.graph, texts()))
    found = quantize(model, "int4", moments=moments).graph.initializers["up.blocks"]
    expected = blocked(
        model.graph.initializers["up"].const_value.numpy().T, Format(bits=4), moments["up"]
    )
    np.testing.assert_array_equal(found.const_value.numpy(), expected.data)


def test_a_graph_that_reads_more_than_texts_is_given_none():
    graph = reader(("input_ids", "encoder_attention_mask")).graph
    assert tuple(feeds(graph, texts())) == ()
    assert second_moments(reader(), []) == {}


def test_what_came_before_is_nothing():
    graph = reader(("input_ids", "attention_mask", "position_ids")).graph
    graph.inputs.append(
        ir.val("past_key_values.0.key", dtype=ir.DataType.FLOAT, shape=["B", 3, "P", 64])
    )
    (feed,) = feeds(graph, [np.array([5, 6, 7])])
    assert feed["past_key_values.0.key"].shape == (1, 3, 0, 64)
    assert feed["position_ids"].tolist() == [[0, 1, 2]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1]]
