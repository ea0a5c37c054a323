"""Queries, keys and values come from one product, which the attention reads as it is.

Other products that read the same input stay apart: packed, a Split would have to copy their results. The
gate and the up projection of SmolLM2-135M, packed, saved 2% of a token's time in float32 and cost a prompt
of 512 tokens 6% on two threads; docs/performance.md has the other precisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from lmkit.export.fusing.rewriting import initializer

LAST = 2  # of the axes of [B, S, D]


@contextmanager
def weights_aside(graph: ir.Graph) -> Iterator[None]:
    """Let the products' weights be inputs for a while, so that no fusion packs, reads or copies them."""
    aside = {}
    for name, value in list(graph.initializers.items()):
        weight = value.const_value
        users = value.uses()
        products = all(node.op_type == "MatMul" and index == 1 for node, index in users)
        if weight is not None and weight.shape.rank() == 2 and users and products:
            aside[name] = value, weight
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    try:
        yield
    finally:
        for value, weight in aside.values():
            graph.inputs.remove(value)
            value.const_value = weight
            if value.uses():
                graph.register_initializer(value)


def pack_attention(graph: ir.Graph) -> None:
    """Let each attention read one product, where queries, keys and values are three of one input.

    The operator takes them packed on its own, without a Split: [B, S, (H + 2 KV) * D].
    """
    for attention in [node for node in graph if node.op_type == "GroupQueryAttention"]:
        parts = [_projection(value) for value in attention.inputs[:3]]
        if None in parts:
            continue
        found = [part for part in parts if part is not None]
        sources, biased = {part[0] for part in found}, {part[2] is not None for part in found}
        if len(sources) != 1 or len(biased) != 1:
            continue
        source, weight, _ = found[0]
        at = attention.inputs[0]
        assert at is not None
        # Joined along the axis that is slow in torch's memory, of which the weights are views.
        joined = np.concatenate([_array(part[1]).T for part in found]).T
        name = f"{weight.name}.with_key_and_value"
        product = ir.node("MatMul", [source, initializer(graph, name, joined)])
        nodes = [product]
        if True in biased:
            bias = np.concatenate([_array(part[2]) for part in found])
            total = initializer(graph, f"{name}.bias", bias)
            nodes.append(ir.node("Add", [product.outputs[0], total]))
        for node in nodes:
            output = node.outputs[0]
            output.dtype = ir.DataType.FLOAT
            if at.shape is not None:
                output.shape = ir.Shape([*at.shape[:LAST], joined.shape[1]])
        graph.insert_before(attention, nodes)
        attention.replace_input_with(0, nodes[-1].outputs[0])
        attention.replace_input_with(1, None)
        attention.replace_input_with(2, None)


def _projection(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value | None] | None:
    """Return what `value` [B, S, D] multiplies, by what, and its bias, if that is all it is."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    node, bias = value.producer(), None
    if node is not None and node.op_type == "Add":
        constants = [entry for entry in node.inputs if entry is not None and entry.const_value]
        others = [entry for entry in node.inputs if entry not in constants]
        if len(constants) != 1 or others[0] is None or len(others[0].uses()) != 1:
            return None
        bias, node = constants[0], others[0].producer()
    if node is None or node.op_type != "MatMul":
        return None
    source, weight = node.inputs
    if source is None or weight is None or weight.const_value is None:
        return None
    n_columns = int(weight.const_value.shape.numpy()[1])
    if bias is not None and _array(bias).shape != (n_columns,):
        return None
    return source, weight, bias


def _array(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    array: np.ndarray = value.const_value.numpy()
    return array
