"""What every rewrite of a graph needs: to tell shapes, and to put a node or a weight in place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators


def take_place(graph: ir.Graph, node: ir.Node, other: ir.Node) -> None:
    """Put `other` where `node` was, with its one output's name, type and shape.

    A trace leaves the type of some products out; it is that of what they multiply.
    """
    old, new, source = node.outputs[0], other.outputs[0], node.inputs[0]
    new.name, new.shape = old.name, old.shape
    new.dtype = old.dtype or (source.dtype if source is not None else None)
    graph.insert_before(node, other)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def is_known(value: ir.Value) -> bool:
    """Say whether every axis is a size or a named symbol, so that equal shapes are equal."""
    return value.shape is not None and all(
        isinstance(axis, int) or axis.value is not None for axis in value.shape
    )


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Return a new weight of a graph, which holds `array` itself, not a copy."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value
