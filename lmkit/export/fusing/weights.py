"""Weights lie in the file once, under their names in torch, as the products read them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lmkit.export.fusing.rewriting import MICROSOFT, initializer, take_place

WRAPPER = "model."  # how the trace calls the model inside its step
_HEAD = 64  # numbers of a weight that tell it from most others


def name_as_in_torch(graph: ir.Graph) -> None:
    """Drop the name of the module that the trace wrapped around the model."""
    for name, value in list(graph.initializers.items()):
        if name.startswith(WRAPPER):
            value.name = name.removeprefix(WRAPPER)


def share_equal_weights(graph: ir.Graph) -> None:
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


def share_contents(graph: ir.Graph) -> None:
    """Let weights of equal numbers be one initializer.

    Layers that share their weights (ALBERT's) share one initializer in the trace, but a projection
    that the fusions pack is packed anew for each layer.
    """
    kept: dict[tuple[object, ...], list[ir.Value]] = {}
    for name, value in list(graph.initializers.items()):
        if value.const_value is None or value.is_graph_output():
            continue
        array = value.const_value.numpy()
        head = array.reshape(-1)[:_HEAD].tobytes()
        like = kept.setdefault((array.shape, array.dtype, head), [])
        for other in like:
            assert other.const_value is not None
            if np.array_equal(array, other.const_value.numpy()):
                value.replace_all_uses_with(other)
                del graph.initializers[name]
                break
        else:
            like.append(value)


def lay_out_weights(graph: ir.Graph) -> None:
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
                node.outputs[0].replace_all_uses_with(stored_transposed(graph, value))
    # The transposes and the weights they read are dead now; the fusions remove them.


def stored_transposed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return the [in, out] twin of a weight [out, in], made once."""
    name = f"{value.name}.transposed"
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = value.const_value
    assert tensor is not None
    # A view: the bytes are laid out when the file is written.
    return initializer(graph, name, tensor.numpy().T)


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
        take_place(graph, node, product)
