"""A graph that runs in pieces finds what it finds as a whole, with few weights in memory at a time."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from lmkit.export.quantizing.calibrating import second_moments  # noqa: E402
from lmkit.export.quantizing.feeding import feeds  # noqa: E402
from lmkit.export.quantizing.pieces import is_given, pieces, size_of  # noqa: E402

VOCAB, WIDTH, DEPTH = 64, 48, 6
MATRIX = WIDTH * WIDTH * 4  # bytes
calibrating = sys.modules["lmkit.export.quantizing.calibrating"]


def residual() -> ir.Model:
    """Return embedding -> [x + mask * (x @ w)] x 6 -> head, where all layers read the mask."""
    rng = np.random.default_rng(3)
    names = ["embedding", *(f"layer.{n}" for n in range(DEPTH)), "head"]
    shapes = [(VOCAB, WIDTH), *[(WIDTH, WIDTH)] * DEPTH, (WIDTH, VOCAB)]
    weights = {
        name: ir.val(
            name,
            const_value=ir.tensor(rng.standard_normal(shape).astype(np.float32) / 7, name=name),
        )
        for name, shape in zip(names, shapes, strict=True)
    }
    axis = ir.val("axis", const_value=ir.tensor(np.array([-1]), name="axis"))
    taken = [
        ir.val(name, dtype=ir.DataType.INT64, shape=["B", "T"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        ir.node("Cast", [taken[1]], attributes={"to": 1}),
        ir.node("Gather", [weights["embedding"], taken[0]]),
    ]
    nodes.append(ir.node("Unsqueeze", [nodes[0].outputs[0], axis]))
    mask, states = nodes[2].outputs[0], nodes[1].outputs[0]
    for number in range(DEPTH):
        product = ir.node("MatMul", [states, weights[f"layer.{number}"]])
        masked = ir.node("Mul", [product.outputs[0], mask])
        added = ir.node("Add", [states, masked.outputs[0]])
        nodes += [product, masked, added]
        states = added.outputs[0]
    nodes.append(ir.node("MatMul", [states, weights["head"]]))
    for number, node in enumerate(nodes):
        node.outputs[0].name = f"value.{number}"
    nodes[-1].outputs[0].dtype = ir.DataType.FLOAT
    graph = ir.Graph(
        taken,
        [nodes[-1].outputs[0]],
        nodes=nodes,
        initializers=[*weights.values(), axis],
        opset_imports={"": 20},
    )
    return ir.Model(graph, ir_version=10)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCAB, length) for length in (40, 9, 30)]


def multiplied(model: ir.Model) -> list[ir.Value]:
    return [node.inputs[0] for node in model.graph if node.op_type == "MatMul"]


class TestPieces:
    def test_hold_few_weights_each_and_all_of_them_together(self) -> None:
        model = residual()
        found = pieces(model.graph, multiplied(model), most=2 * MATRIX)

        held = [
            {value.name for node in piece.nodes for value in node.inputs if size_of(value)}
            for piece in found
        ]
        assert all(len(names) <= 2 for names in held)
        assert sorted(name for names in held for name in names) == [
            "embedding",
            *(f"layer.{number}" for number in range(DEPTH)),
        ]

    def test_reckon_nothing_behind_what_is_wanted(self) -> None:
        model = residual()
        head = [*model.graph][-1]
        found = pieces(model.graph, multiplied(model), most=2 * MATRIX)
        assert not [piece for piece in found if head in piece.nodes]

    def test_end_where_one_value_is_handed_on_and_reckon_the_mask_themselves(self) -> None:
        model = residual()
        found = pieces(model.graph, multiplied(model), most=2 * MATRIX)
        handed_on = [[value.name for value in piece.handed_on] for piece in found]
        assert [len(names) for names in handed_on] == [1] * (len(found) - 1) + [0]
        for piece, before in zip(found[1:], handed_on[:-1], strict=True):
            assert [value.name for value in piece.inputs if not is_given(value)] == before


class TestWhatIsMeasuredInPieces:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibrating, "pieces", functools.partial(pieces, most=2 * MATRIX))

    @pytest.mark.usefixtures("small")
    def test_is_what_numpy_finds(self) -> None:
        model = residual()
        arrays = {name: one.const_value.numpy() for name, one in model.graph.initializers.items()}
        states = np.concatenate([arrays["embedding"][row] for row in texts()]).astype(np.float64)

        found = second_moments(model, feeds(model.graph, texts()))

        assert set(found) == {*(f"layer.{number}" for number in range(DEPTH)), "head"}
        for name in [*(f"layer.{number}" for number in range(DEPTH)), "head"]:
            (moments,) = found[name]
            np.testing.assert_allclose(
                moments, states.T @ states / len(states), rtol=1e-3, atol=1e-3
            )
            if name != "head":
                states = states + states @ arrays[name]

    @pytest.mark.usefixtures("small")
    def test_is_read_out_of_a_file_as_it_was_found(self, tmp_path: Path) -> None:
        model = residual()
        kept = second_moments(model, feeds(model.graph, texts()))
        with open(tmp_path / "moments", "w+b") as file:
            filed = second_moments(model, feeds(model.graph, texts()), file=file)
            assert set(filed) == set(kept)
            for name in kept:
                np.testing.assert_array_equal(filed[name][0], kept[name][0])
