"""A caller may ask for the logits of some positions only: then only those are computed.

A prompt of 512 tokens needs one row of logits, and a masked text those of its mask tokens; and a head is
the largest product of a small model. The graph gets an input that may be left out, and what only the
logits read, from the head back to the last attention, runs on the positions that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from lmkit.export.fusing.rewriting import initializer

INPUT = "num_logits_to_keep"  # also transformers.js's name for it
MARKS = "logits_mask"
AXIS = "kept_length"  # of the logits: as many positions as were asked for
_ALL = np.iinfo(np.int64).max

# Operators that compute each position from that position alone, if their inputs have one axis of them.
_POSITION_WISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Cast",
        "Identity",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Relu",
        "Clip",
        "Gelu",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "Where",
        "MatMul",
        "FusedMatMul",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ]
)
# Those that do so along their last axis only, as the attribute says.
_ALONG_AXIS = frozenset(
    ["Split", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization", "Softmax"]
)


def keep_last_logits(graph: ir.Graph) -> None:
    """Give a causal graph the input `num_logits_to_keep`, int64 [1], in place.

    Its default is 0, which stands for all positions, as more than there are does; n stands for the last
    n. It is an initializer with the name of an input, which callers that do not know it leave out.

    Args:
        graph: its first input is `input_ids` [B, S], its first output `logits` [B, S, V].
    """
    keep = initializer(graph, INPUT, np.zeros(1, np.int64))
    first = ir.node("Neg", [keep])
    first.outputs[0].shape, first.outputs[0].dtype = ir.Shape([1]), ir.DataType.INT64
    graph.insert_before(graph[0], first)
    bounds = (
        first.outputs[0],
        initializer(graph, f"{INPUT}.end", np.array([_ALL])),
        initializer(graph, f"{INPUT}.axis", np.array([1])),
    )
    _leave_out(graph, lambda value: [ir.node("Slice", [value, *bounds])])
    graph.inputs.append(keep)


def keep_marked_logits(graph: ir.Graph) -> None:
    """Give a masked graph the input `logits_mask`, bool [B, S], in place.

    The logits are then float32 [B, K, V], those of a row's marked positions in their order; every row
    must have K of them. Its default is true of all positions.

    Args:
        graph: its first input is `input_ids` [B, S], its first output `logits` [B, S, V].
    """
    ids = graph.inputs[0]
    marks = initializer(graph, MARKS, np.ones((1, 1), dtype=np.bool_))
    marks.shape = ir.Shape([None, None])  # what a caller gives may be larger
    shape = ir.node("Shape", [ids])
    rows = ir.node("Shape", [ids], attributes={"start": 0, "end": 1})
    whole = ir.node("Expand", [marks, shape.outputs[0]])
    found = ir.node("NonZero", [whole.outputs[0]])
    places = ir.node("Transpose", [found.outputs[0]], attributes={"perm": [1, 0]})  # [N, 2]
    graph.insert_before(graph[0], [shape, rows, whole, found, places])
    rest = initializer(graph, f"{MARKS}.rest", np.array([-1]))

    def cut(value: ir.Value) -> list[ir.Node]:
        each = ir.node("Shape", [value], attributes={"start": 2})
        parts = [rows.outputs[0], rest, each.outputs[0]]
        sizes = ir.node("Concat", parts, attributes={"axis": 0})
        picked = ir.node("GatherND", [value, places.outputs[0]])
        rowwise = ir.node("Reshape", [picked.outputs[0], sizes.outputs[0]])
        return [each, sizes, picked, rowwise]

    _leave_out(graph, cut)
    graph.inputs.append(marks)


def _leave_out(graph: ir.Graph, cut: Callable[[ir.Value], list[ir.Node]]) -> None:
    """Let the logits, and what only they need, be computed for some positions.

    Args:
        graph: its first input is `input_ids` [B, S], its first output `logits` [B, S, V].
        cut: returns nodes, the last of which leaves the positions that are wanted of [B, S, ...].
    """
    logits, shape = graph.outputs[0], graph.inputs[0].shape
    assert shape is not None
    _tell_shapes(graph)
    behind = _only_for(logits, shape[1], graph)
    if not behind:
        _cut_output(graph, logits, cut)
    for value in [source for node in behind for source in node.inputs if source is not None]:
        if value.producer() not in behind and _position_axis(value, shape[1]):
            _cut_for(behind, value, graph, cut)
    for node in behind:
        for output in node.outputs:
            _keep_axis(output)
    _keep_axis(logits)


def _tell_shapes(graph: ir.Graph) -> None:
    """Write down the shapes of products with a weight, which a trace may leave out."""
    for node in graph:
        if node.op_type not in ("MatMul", "FusedMatMul") or node.outputs[0].shape is not None:
            continue
        source, weight = node.inputs
        if source is None or source.shape is None or weight is None or weight.const_value is None:
            continue
        if weight.const_value.shape.rank() == 2 and not node.attributes.get_int("transA", 0):
            width = weight.const_value.shape[-2 if node.attributes.get_int("transB", 0) else -1]
            node.outputs[0].shape = ir.Shape([*list(source.shape)[:-1], width])


def _only_for(logits: ir.Value, axis: object, graph: ir.Graph) -> dict[ir.Node, None]:
    """Return the nodes that only the logits need and that read each position alone, last first."""
    found: dict[ir.Node, None] = {}
    for node in reversed(list(graph)):
        users = [user for output in node.outputs for user, _ in output.uses()]
        for_logits = logits in node.outputs or bool(users)
        if for_logits and all(user in found for user in users):
            others = [value for value in node.outputs if value is not logits]
            if not any(value.is_graph_output() for value in others) and _by_position(node, axis):
                found[node] = None
    return found


def _by_position(node: ir.Node, axis: object) -> bool:
    """Say whether a node computes each position of axis 1 from that position alone."""
    used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    if not all(_position_axis(value, axis) for value in used):
        return False
    ranks = {len(value.shape) for value in used if value.shape is not None}
    for number, value in enumerate(node.inputs):
        if value is None or value.const_value is None:
            if value is not None and not _position_axis(value, axis):
                return False
        elif node.op_type in ("MatMul", "FusedMatMul"):
            if number != 1 or value.const_value.shape.rank() != 2:
                return False
        elif node.op_type in _POSITION_WISE and value.const_value.shape.rank() > 1:
            return False
    if node.op_type in _POSITION_WISE:
        transposed = ("transA", "transBatchA", "transBatchB")
        return not any(node.attributes.get_int(name, 0) for name in transposed)
    at = node.attributes.get_int("axis", 0 if node.op_type == "Split" else -1)
    return node.op_type in _ALONG_AXIS and ranks == {max(ranks)} and at in (-1, max(ranks) - 1)


def _position_axis(value: ir.Value, axis: object) -> bool:
    """Say whether axis 1 of an array of three axes or more is that of the positions."""
    return value.shape is not None and len(value.shape) > 2 and value.shape[1] == axis


def _cut_for(
    behind: dict[ir.Node, None],
    value: ir.Value,
    graph: ir.Graph,
    cut: Callable[[ir.Value], list[ir.Node]],
) -> None:
    """Let the nodes `behind` read the wanted positions of `value`; others still read all."""
    users = [(node, index) for node, index in value.uses() if node in behind]
    if not users:  # done for another of them
        return
    nodes = cut(value)
    kept = nodes[-1].outputs[0]
    kept.dtype, kept.shape = value.dtype, value.shape
    _keep_axis(kept)
    graph.insert_before(min((node for node, _ in users), key=list(graph).index), nodes)
    for node, index in users:
        node.replace_input_with(index, kept)


def _cut_output(
    graph: ir.Graph, logits: ir.Value, cut: Callable[[ir.Value], list[ir.Node]]
) -> None:
    """Cut the finished logits, where nothing before them can be cut."""
    name = logits.name
    nodes = cut(logits)
    kept = nodes[-1].outputs[0]
    kept.dtype, kept.shape = logits.dtype, logits.shape
    graph.outputs[0] = kept
    logits.name, kept.name = f"{name}.all", name
    graph.extend(nodes)
    _keep_axis(kept)


def _keep_axis(value: ir.Value) -> None:
    """Name axis 1 anew: onnxruntime plans its memory by the names."""
    if value.shape is not None:
        value.shape = ir.Shape([value.shape[0], AXIS, *list(value.shape)[2:]])
