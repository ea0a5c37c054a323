"""The traced graph becomes the graph that is shipped: the same numbers in fewer, faster nodes.

In comes what torch traced, with a Transpose before every product and a dozen small operators for every
norm and rotation; out goes a graph of ONNX Runtime's own fused operators whose weights lie in the file as
the products read them. Every step here is exact, or it is not taken.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

MICROSOFT = "com.microsoft"
WRAPPER = "model."  # how the trace calls the model inside its step


def fuse(model: ir.Model) -> None:
    """Rewrite `model` in place; its inputs, outputs and numbers stay."""
    _name_as_in_torch(model.graph)
    _share_equal_weights(model.graph)
    _lay_out_weights(model.graph)
    # The rotations are recognised in folded form only. Shape inference would find nothing more here
    # and takes a third of the time.
    optimize(model, num_iterations=2, onnx_shape_inference=False)
    _multiply_plainly(model.graph)
    fuse_for_onnxruntime(model, "cpu")
    _drop_reshapes(model.graph)
    _hand_over_packed(model.graph)
    _add_biases_before_splits(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)  # stack traces of this machine, half a megabyte
    model.opset_imports.setdefault(MICROSOFT, 1)


def _name_as_in_torch(graph: ir.Graph) -> None:
    """Drop the name of the module that the trace wrapped around the model."""
    for name, value in list(graph.initializers.items()):
        if name.startswith(WRAPPER):
            value.name = name.removeprefix(WRAPPER)


def _share_equal_weights(graph: ir.Graph) -> None:
    """Let tied weights, which the trace may list twice, be one initializer."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if raw is None or not hasattr(raw, "data_ptr"):
            continue
        key = (raw.data_ptr(), tuple(raw.shape), raw.stride(), raw.dtype)
        kept = first.setdefault(key, value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del graph.initializers[name]


def _lay_out_weights(graph: ir.Graph) -> None:
    """Store each weight as its product reads it, so that no Transpose runs or is folded at load.

    A weight that is also looked up by row (a tied embedding) stays as it is, once, and its product
    reads it transposed: see `_transposed_product`.
    """
    for value in list(graph.initializers.values()):
        transposes = [node for node, _ in value.uses() if node.op_type == "Transpose"]
        if not transposes or value.shape is None or len(value.shape) != 2:
            continue
        shared = len(transposes) != len(value.uses())
        for node in transposes:
            if shared:
                _transposed_product(graph, node)
            else:
                node.outputs[0].replace_all_uses_with(_stored_transposed(graph, value))
    # The transposes and the weights they read are dead now; the fusions remove them.


def _stored_transposed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return the [in, out] twin of a weight [out, in], made once."""
    name = f"{value.name}.transposed"
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = value.const_value
    assert tensor is not None
    # A view: the bytes are laid out when the file is written.
    return _initializer(graph, name, tensor.numpy().T)


def _transposed_product(graph: ir.Graph, transpose: ir.Node) -> None:
    """Let the products behind `transpose` read the weight [out, in] itself.

    Measured on SmolLM2-135M's shape, one thread, CPU time: a kept Transpose 37.3 ms a token (folded and
    packed at load, 0.72 s), Gemm with transB 37.3 ms (0.51 s), the embedding stored transposed and looked
    up along its other axis 37.0 ms (0.70 s and 340 MB more), this one 36.8 ms (0.50 s).
    """
    for node, index in list(transpose.outputs[0].uses()):
        if node.op_type != "MatMul" or index != 1:
            continue
        product = ir.node(
            "FusedMatMul",
            [node.inputs[0], transpose.inputs[0]],
            attributes={"transB": 1},
            domain=MICROSOFT,
        )
        _take_place(graph, node, product)


def _take_place(graph: ir.Graph, node: ir.Node, other: ir.Node) -> None:
    """Put `other` where `node` was, with its one output's name, type and shape.

    A trace leaves the type of some products out; it is that of what they multiply.
    """
    old, new, source = node.outputs[0], other.outputs[0], node.inputs[0]
    new.name, new.shape = old.name, old.shape
    new.dtype = old.dtype or (source.dtype if source is not None else None)
    graph.insert_before(node, other)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _drop_reshapes(graph: ir.Graph) -> None:
    """Read what lies before a chain of reshapes that ends in the shape it began with."""
    for node in list(graph):
        if node.op_type != "Reshape" or not _is_known(node.outputs[0]):
            continue
        source = node.inputs[0]
        origin = None
        while source is not None:
            if _is_known(source) and source.shape == node.outputs[0].shape:
                origin = source
            producer = source.producer()
            source = producer.inputs[0] if producer and producer.op_type == "Reshape" else None
        if origin is not None and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(origin)


def _is_known(value: ir.Value) -> bool:
    """Say whether every axis is a size or a named symbol, so that equal shapes are equal."""
    return value.shape is not None and all(
        isinstance(axis, int) or axis.value is not None for axis in value.shape
    )


def _multiply_plainly(graph: ir.Graph) -> None:
    """Turn each Gemm into MatMul and Add, which later steps and weight quantisers look for.

    GPT-2's layers are traced as Reshape, Gemm, Reshape; there the reshapes go too.
    """
    for gemm in [node for node in graph if node.op_type == "Gemm"]:
        attributes = {name: attribute.value for name, attribute in gemm.attributes.items()}
        scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        source, weight = gemm.inputs[0], gemm.inputs[1]
        if scaled or attributes.get("transA", 0) or len(gemm.inputs) != 3 or source is None:
            continue
        if weight is None or weight.const_value is None:
            continue
        if attributes.get("transB", 0):
            weight = _stored_transposed(graph, weight)
        whole = _unflattened(source, gemm.outputs[0])
        last = gemm if whole is None else next(iter(gemm.outputs[0].uses()))[0]
        product = ir.node("MatMul", [source if whole is None else whole, weight])
        product.outputs[0].shape, product.outputs[0].dtype = last.outputs[0].shape, source.dtype
        graph.insert_before(last, product)
        _take_place(graph, last, ir.node("Add", [product.outputs[0], gemm.inputs[2]]))


def _unflattened(flat: ir.Value, result: ir.Value) -> ir.Value | None:
    """Return [B, S, D] if `flat` is its reshape and the one use of `result` reshapes it back."""
    flatten, users = flat.producer(), [node for node, _ in result.uses()]
    if flatten is None or len(users) != 1 or result.is_graph_output():
        return None
    if {flatten.op_type, users[0].op_type} != {"Reshape"} or flatten.inputs[0] is None:
        return None
    source, back = flatten.inputs[0], users[0].outputs[0]
    if not (_is_known(source) and _is_known(back)):
        return None
    assert source.shape is not None
    assert back.shape is not None
    return source if source.shape[:-1] == back.shape[:-1] else None


def _hand_over_packed(graph: ir.Graph) -> None:
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


def _add_biases_before_splits(graph: ir.Graph) -> None:
    """Add the biases of a packed projection at once, before its output is split."""
    for split in [node for node in graph if node.op_type == "Split"]:
        additions = [_bias_addition(output) for output in split.outputs]
        source = split.inputs[0]
        if None in additions or source is None:
            continue
        found = [addition for addition in additions if addition is not None]
        bias = np.concatenate([array for _, array in found])
        name = f"{source.name}.bias"
        total = ir.node("Add", [source, _initializer(graph, name, bias)])
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


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value
