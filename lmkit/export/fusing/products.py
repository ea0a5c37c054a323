"""Products of activations and weights: plain ones, which weight quantisers look for, and their biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lmkit.export.fusing.rewriting import initializer, is_known, take_place
from lmkit.export.fusing.weights import stored_transposed


def multiply_plainly(graph: ir.Graph) -> None:
    """Turn each Gemm into MatMul and Add, which later steps and weight quantisers look for.

    GPT-2's layers are traced as Reshape, Gemm, Reshape; there the reshapes go too. A bias of zeros, as an
    untrained layer has, is gone from the Gemm by then, and no Add is left of it.
    """
    for gemm in [node for node in graph if node.op_type == "Gemm"]:
        attributes = {name: attribute.value for name, attribute in gemm.attributes.items()}
        source, weight = gemm.inputs[:2]
        bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
        scaled = attributes.get("alpha", 1.0) != 1.0
        if bias is not None:
            scaled = scaled or attributes.get("beta", 1.0) != 1.0
        if scaled or attributes.get("transA", 0) or source is None:
            continue
        if weight is None or weight.const_value is None:
            continue
        if attributes.get("transB", 0):
            weight = stored_transposed(graph, weight)
        whole = _unflattened(source, gemm.outputs[0])
        last = gemm if whole is None else next(iter(gemm.outputs[0].uses()))[0]
        product = ir.node("MatMul", [source if whole is None else whole, weight])
        if bias is None:
            take_place(graph, last, product)
            continue
        product.outputs[0].shape, product.outputs[0].dtype = last.outputs[0].shape, source.dtype
        graph.insert_before(last, product)
        take_place(graph, last, ir.node("Add", [product.outputs[0], bias]))


def _unflattened(flat: ir.Value, result: ir.Value) -> ir.Value | None:
    """Return [B, S, D] if `flat` is its reshape and the one use of `result` reshapes it back."""
    flatten, users = flat.producer(), [node for node, _ in result.uses()]
    if flatten is None or len(users) != 1 or result.is_graph_output():
        return None
    if {flatten.op_type, users[0].op_type} != {"Reshape"} or flatten.inputs[0] is None:
        return None
    source, back = flatten.inputs[0], users[0].outputs[0]
    if not (is_known(source) and is_known(back)):
        return None
    assert source.shape is not None
    assert back.shape is not None
    return source if source.shape[:-1] == back.shape[:-1] else None


def drop_reshapes(graph: ir.Graph) -> None:
    """Read what lies before a chain of reshapes that ends in the shape it began with."""
    for node in list(graph):
        if node.op_type != "Reshape" or not is_known(node.outputs[0]):
            continue
        source = node.inputs[0]
        origin = None
        while source is not None:
            if is_known(source) and source.shape == node.outputs[0].shape:
                origin = source
            producer = source.producer()
            source = producer.inputs[0] if producer and producer.op_type == "Reshape" else None
        if origin is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(origin)


def hand_over_packed(graph: ir.Graph) -> None:
    """Let an attention read queries, keys and values from one packed product, without a split."""
    for node in graph:
        if node.op_type != "GroupQueryAttention" or node.inputs[0] is None:
            continue
        split = node.inputs[0].producer()
        if (
            split is None
            or split.op_type != "Split"
            or list(node.inputs[:3]) != list(split.outputs)
        ):
            continue
        if split.attributes.get_int("axis", 0) in (-1, 2):
            node.replace_input_with(0, split.inputs[0])
            node.replace_input_with(1, None)
            node.replace_input_with(2, None)


def add_biases_before_splits(graph: ir.Graph) -> None:
    """Add the biases of a packed projection at once, before its output is split."""
    for split in [node for node in graph if node.op_type == "Split"]:
        additions = [_bias_addition(output) for output in split.outputs]
        source = split.inputs[0]
        if None in additions or source is None:
            continue
        found = [addition for addition in additions if addition is not None]
        bias = np.concatenate([array for _, array in found])
        name = f"{source.name}.bias"
        total = ir.node("Add", [source, initializer(graph, name, bias)])
        total.outputs[0].shape, total.outputs[0].dtype = source.shape, source.dtype
        graph.insert_before(split, total)
        split.replace_input_with(0, total.outputs[0])
        for output, (addition, _) in zip(split.outputs, found, strict=True):
            addition.outputs[0].replace_all_uses_with(output)


def _bias_addition(value: ir.Value) -> tuple[ir.Node, np.ndarray] | None:
    """Return the one Add of a constant [D] that reads `value` [B, S, D], and that constant."""
    users = list(value.uses())
    if len(users) != 1 or users[0][0].op_type != "Add" or value.shape is None:
        return None
    node, index = users[0]
    bias = node.inputs[1 - index]
    array = bias.const_value.numpy() if bias is not None and bias.const_value is not None else None
    if array is None or array.shape != (value.shape[-1],) or node.outputs[0].is_graph_output():
        return None
    return node, array
