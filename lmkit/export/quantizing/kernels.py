"""The operators that read smaller weights, written in place of those that read float32.

A kernel takes one weight and rewrites the nodes that read it. Another way to multiply is another class with
the same two methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
from attrs import frozen

from lmkit.export.fusing.rewriting import MICROSOFT, initializer, take_place
from lmkit.export.quantizing.blocks import Blocks, Format, blocked
from lmkit.export.quantizing.weights import Weight


class Kernel(Protocol):
    """A way to store a weight and to read it."""

    def stored(self, weight: Weight, moments: Sequence[np.ndarray] | None = None) -> object:
        """Return the weight as it is stored; called once for a weight that several graphs share.

        Args:
            weight: what to store.
            moments: second moments of what its products multiply, if they were measured.
        """

    def rewrite(self, graph: ir.Graph, weight: Weight, stored: object) -> None:
        """Let the nodes that read `weight` read `stored`."""


@frozen(kw_only=True)
class BlockKernel:
    """Weights in blocks: MatMulNBits for products, GatherBlockQuantized for lookups, on the same bytes.

    Attributes:
        format: how the numbers are stored.
        accuracy_level: how MatMulNBits may round what it multiplies: 4 is to 8 bits in blocks of the same
            size, 1 leaves it in float32.
    """

    format: Format
    accuracy_level: int = 4

    def stored(self, weight: Weight, moments: Sequence[np.ndarray] | None = None) -> Blocks:
        """Return the rounded weight; in 8 bits the nearest numbers are as good as any."""
        known = moments if self.format.bits < 8 else None
        return blocked(weight.array, self.format, known)

    def rewrite(self, graph: ir.Graph, weight: Weight, stored: object) -> None:
        """Put MatMulNBits for the products and GatherBlockQuantized for the lookups of a weight."""
        assert isinstance(stored, Blocks)
        scales = _scales(graph, f"{weight.name}.scales", stored.scales)
        zeros = []
        if stored.zero_points is not None:
            zeros = [initializer(graph, f"{weight.name}.zero_points", stored.zero_points)]
        if weight.products:
            data = initializer(graph, f"{weight.name}.blocks", stored.data)
            for node in weight.products:
                own = _multiplied(graph, node, data, scales, stored)
                self._put_product(graph, node, [node.inputs[0], data, own, *zeros], stored)
        n_bytes, rest = divmod(stored.width * stored.format.bits, 8)
        if weight.lookups and not rest:
            # The same bytes in the shape in which rows are taken, less what fills up the last block.
            rows = np.ascontiguousarray(stored.data.reshape(len(stored.data), -1)[:, :n_bytes])
            data = initializer(graph, f"{weight.name}.rows", rows)
            for node in weight.lookups:
                _put_lookup(graph, node, [data, node.inputs[1], scales, *zeros], stored)
        if not weight.value.uses():
            del graph.initializers[weight.name]

    def _put_product(
        self, graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None], stored: Blocks
    ) -> None:
        attributes = {
            "K": stored.width,
            "N": len(stored.data),
            "bits": stored.format.bits,
            "block_size": stored.format.block,
            "accuracy_level": self.accuracy_level,
        }
        product = ir.node("MatMulNBits", inputs, attributes=attributes, domain=MICROSOFT)
        replace(graph, node, product)


def _put_lookup(
    graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None], stored: Blocks
) -> None:
    attributes = {
        "bits": stored.format.bits,
        "block_size": stored.format.block,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    lookup = ir.node("GatherBlockQuantized", inputs, attributes=attributes, domain=MICROSOFT)
    replace(graph, node, lookup)


def _multiplied(
    graph: ir.Graph, node: ir.Node, data: ir.Value, scales: ir.Value, stored: Blocks
) -> ir.Value:
    """Return the scales times what a product multiplies its result by, which mostly is 1."""
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha == 1.0:
        return scales
    name = f"{data.name}.scales.{alpha:g}"
    return graph.initializers.get(name) or initializer(
        graph, name, stored.scales.astype(np.float32) * np.float32(alpha)
    )


def _scales(graph: ir.Graph, name: str, scales: np.ndarray) -> ir.Value:
    """Return scales, float16 or float32 [N, blocks], as a value of a graph in float32.

    Both kernels read float32; onnxruntime makes that of the smaller ones once, when it opens the graph.
    """
    if scales.dtype == np.float32:
        return initializer(graph, name, scales)
    half = initializer(graph, f"{name}.half", scales)
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=name)
    value = cast.outputs[0]
    value.name, value.dtype, value.shape = name, ir.DataType.FLOAT, ir.Shape(scales.shape)
    graph.insert_before(graph[0], cast)
    return value


def replace(graph: ir.Graph, node: ir.Node, other: ir.Node) -> None:
    """Put `other` where `node` was, with its name, and that, type and shape of its one output."""
    other.name = node.name
    take_place(graph, node, other)
    output = other.outputs[0]
    output.dtype = output.dtype or ir.DataType.FLOAT  # a kernel gives nothing else
