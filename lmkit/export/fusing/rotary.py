"""The attention rotates queries and keys itself, from a table of every position's cosines and sines.

In comes a graph with a RotaryEmbedding for the queries and one for the keys of each layer, whose cosines
are computed from `position_ids` at every step; out goes one whose attention does both, from constants. On
SmolLM2-135M in int4 a token lost 5% of its time by it, one thread.

The operator then takes the positions from the rows' lengths: those before, counted on by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.convenience import extract

from lmkit.export.fusing.rewriting import MICROSOFT, initializer

_STEP = 16  # onnxruntime 1.31 rotates heads, or parts of heads, of 16, 32, 48 and so on
_POSITIONS = "position_ids"
_SMALL = 1 << 20  # bytes of tables that are never too many
_SHARE = 50  # above that, tables may take one in so many of the weights' bytes


def rotate_within_attention(model: ir.Model, n_positions: int | None) -> None:
    """Move rotations into the attention operators, in place, where they can be told exactly.

    Args:
        model: a causal graph whose attentions are GroupQueryAttention.
        n_positions: the most tokens of a text, as many rows the tables get; None where there is no limit.
    """
    graph = model.graph
    tables: dict[tuple[ir.Value, ...], tuple[ir.Value, ir.Value] | None] = {}
    for attention in [node for node in graph if node.op_type == "GroupQueryAttention"]:
        rotations = [_rotation(value) for value in attention.inputs[:2]]
        if None in rotations or n_positions is None:
            continue
        query, key = (node for node in rotations if node is not None)
        angles = tuple(value for value in query.inputs[1:4] if value is not None)
        if list(key.inputs[1:4]) != list(angles) or _attributes(query) != _attributes(key):
            continue
        if angles not in tables:
            tables[angles] = _tables(model, angles, n_positions)
        table = tables[angles]
        if table is None or not _fits(attention, query, table):
            continue
        before = [*attention.inputs[2:7]]
        behind = [*attention.inputs[9:]]
        inputs = [query.inputs[0], key.inputs[0], *before, *table, *behind]
        attention.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            attention.replace_input_with(index, value)
        interleaved = query.attributes.get_int("interleaved", 0)
        attention.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 1)
        attention.attributes["rotary_interleaved"] = ir.AttrInt64("rotary_interleaved", interleaved)


def _rotation(value: ir.Value | None) -> ir.Node | None:
    """Return the RotaryEmbedding of [B, S, H * D] that makes `value` for one attention alone."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "RotaryEmbedding":
        return None
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    plain = node.domain == MICROSOFT and len(value.uses()) == 1 and len(node.inputs) == 4
    return node if plain and shape is not None and len(shape) == 3 else None


def _attributes(node: ir.Node) -> dict[str, object]:
    """Return how a rotation rotates; how many heads is the attention's affair."""
    return {name: node.attributes[name].value for name in node.attributes if name != "num_heads"}


def _fits(attention: ir.Node, rotation: ir.Node, table: tuple[ir.Value, ir.Value]) -> bool:
    """Say whether the operator can rotate as a RotaryEmbedding does."""
    past, angles = attention.inputs[3], table[0].shape
    assert past is not None
    assert angles is not None
    head_size = past.shape[3] if past.shape is not None else None
    rotated = 2 * int(angles[1])
    named = rotation.attributes.get_int("rotary_embedding_dim", 0) or head_size
    unscaled = rotation.attributes.get_float("scale", 1.0) == 1.0
    packed = rotation.attributes.get_int("is_packed_batching", 0)
    sizes = isinstance(head_size, int) and head_size % _STEP == 0 and rotated % _STEP == 0
    return sizes and rotated == named and unscaled and not packed


def _tables(
    model: ir.Model, angles: Sequence[ir.Value], n_positions: int
) -> tuple[ir.Value, ir.Value] | None:
    """Return the cosines and sines of each position, float32 [N, R / 2], or None.

    They are computed by the graph's own nodes, so that they are the same to the last bit; and twice, for
    positions in two orders, so that a rotation that depends on anything else is left alone.
    """
    graph = model.graph
    n_columns = angles[1].shape[-1] if angles[1].shape is not None else None
    n_weights = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value)
    if not isinstance(n_columns, int):
        return None
    if 8 * n_positions * n_columns > max(_SMALL, n_weights // _SHARE):
        return None
    inputs = [value for value in graph.inputs if value.name in (_POSITIONS, "input_ids")]
    try:
        part = extract(graph, inputs, [*angles])
    except ValueError:  # they depend on another input
        return None
    whole = ir.Model(part, ir_version=model.ir_version)
    whole.opset_imports.update(model.opset_imports)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(whole).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    forwards = np.arange(n_positions)[None]
    found = []
    for positions in (forwards, forwards[:, ::-1]):
        feeds = {value.name: np.ascontiguousarray(positions) for value in inputs}
        index, *angled = session.run(None, feeds)
        found.append([array[index[0]] for array in angled])
    if not all(np.array_equal(a, b[::-1]) for a, b in zip(*found, strict=True)):
        return None
    cosines, sines = (
        initializer(graph, f"{value.name}.of_every_position", np.ascontiguousarray(array))
        for value, array in zip(angles[1:], found[0], strict=True)
    )
    return cosines, sines
