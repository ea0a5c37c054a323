"""The matrices of a graph that a smaller kernel could read, and the nodes that read them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from attrs import frozen

from lmkit.export.fusing import MICROSOFT


@frozen(eq=False, kw_only=True)
class Weight:
    """A constant float32 matrix of a graph.

    Attributes:
        name: of the initializer.
        value: the initializer.
        array: float32 [out, in], a view of its memory.
        products: nodes that multiply by it: MatMul, Gemm without a bias, or FusedMatMul that reads it
            transposed.
        lookups: Gather nodes that take rows [in] of it, as an embedding does.
        others: how many nodes read it in another way, for which it has to stay as it is.
    """

    name: str
    value: ir.Value
    array: np.ndarray
    products: tuple[ir.Node, ...]
    lookups: tuple[ir.Node, ...]
    others: int


def weights(graph: ir.Graph) -> Iterator[Weight]:
    """Find the constant matrices that products or lookups read, in the graph's order of initializers.

    A matrix that products read in both layouts is left out, and so is one that is an output.
    """
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            continue
        if value.is_graph_output() or value.is_graph_input():
            continue
        plain, transposed, lookups = [], [], []
        others = 0
        for node, index in value.uses():
            if node.graph is not graph:
                others += 1
            elif _multiplies(node, index):
                plain.append(node)
            elif _multiplies_transposed(node, index):
                transposed.append(node)
            elif node.op_type == "Gather" and index == 0 and not node.attributes.get_int("axis", 0):
                lookups.append(node)
            else:
                others += 1
        if (plain and (transposed or lookups)) or not (plain or transposed or lookups):
            continue
        array = tensor.numpy()
        yield Weight(
            name=name,
            value=value,
            array=array.T if plain else array,
            products=(*plain, *transposed),
            lookups=tuple(lookups),
            others=others,
        )


def _multiplies(node: ir.Node, index: int) -> bool:
    if (node.domain, node.op_type, index) == ("", "MatMul", 1):
        return True
    return _is_gemm(node, index) and not node.attributes.get_int("transB", 0)


def _is_gemm(node: ir.Node, index: int) -> bool:
    """Say whether a Gemm without a bias reads a value as what it multiplies by."""
    if (node.domain, node.op_type, index) != ("", "Gemm", 1):
        return False
    return len(node.inputs) == 2 and not node.attributes.get_int("transA", 0)


def _multiplies_transposed(node: ir.Node, index: int) -> bool:
    if _is_gemm(node, index):
        return bool(node.attributes.get_int("transB", 0))
    if (node.domain, node.op_type, index) != (MICROSOFT, "FusedMatMul", 1):
        return False
    others = ("transA", "transBatchA", "transBatchB")
    return bool(node.attributes.get_int("transB", 0)) and not any(
        node.attributes.get_int(name, 0) for name in others
    )
