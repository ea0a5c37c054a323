"""Integer products: weights in 8 bits by column, and what they multiply rounded to 8 bits row by row.

The processor's dot products of bytes are three times as fast as MatMulNBits where many rows are multiplied,
and read fewer bytes where one is: on two cores 1040 to 1340 GFLOP/s at 512 rows of SmolLM2-135M's shapes
against 370 to 390 of MatMulNBits in 8 bits and 400 of float32. onnxruntime's dynamic operators round a
whole batch by its largest number, which would make an answer depend on its neighbours. Here each row is
divided by its own largest number first, so that one fixed step of 1/127 fits every row, and what comes out
is multiplied by it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from attrs import frozen

from lmkit.export.fusing.rewriting import MICROSOFT, initializer
from lmkit.export.quantizing.kernels import replace
from lmkit.export.quantizing.rotating import hadamard
from lmkit.export.quantizing.weights import Weight

_MOST = 127
_MIXED = (64, 32, 16)  # neighbours that may be mixed, the most that divide a row first
_NORMS = frozenset(["SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"])
# What stands between a product and the attention that reads it.
_TO_ATTENTION = frozenset(
    ["Add", "Split", "Reshape", "Transpose", "RotaryEmbedding", "SimplifiedLayerNormalization"]
)
_CHUNK = 1 << 22  # numbers rounded at a time
# The least that a row is divided by, so that a row of zeros stays one.
_SMALLEST = np.float32(1e-30)


@frozen(eq=False, kw_only=True)
class Columns:
    """A weight [N, K] in 8 bits, with one scale for each of the N.

    Attributes:
        data: int8 [K, N], as the product reads it.
        scales: float32 [N].
    """

    data: np.ndarray
    scales: np.ndarray


def by_column(array: np.ndarray) -> Columns:
    """Round a weight, float32 [N, K], to the nearest of evenly spaced numbers that reach its extremes."""
    n_out, n_in = array.shape
    data, scales = np.empty((n_in, n_out), np.int8), np.empty(n_out, np.float32)
    step = max(1, _CHUNK // n_in)
    for start in range(0, n_out, step):
        rows = array[start : start + step]
        largest = np.maximum(np.abs(rows).max(-1), _SMALLEST)
        data[:, start : start + step] = np.rint(rows * (_MOST / largest)[:, None]).T
        scales[start : start + step] = largest / _MOST
    return Columns(data=data, scales=scales)


def row_kernel(weight: Weight) -> RowKernel | None:
    """Return how a weight of a turned graph is multiplied in integers, or None if it should not be.

    It is for the products between two layers' attentions, three quarters of the work. Those that attention
    reads or writes, lookups and the logits lose more by rounded rows than they gain. Measured on
    SmolLM2-135M, 10,307 learned tokens of chats and 10,221 of instructions, perplexity (+- the standard error
    of the paired difference) and divergence from float32:

        kernel of                          chats                   instructions
        gate, up and down: rows            +0.17% (0.16) 0.0070    +0.40% (0.12) 0.0044
        gate and up: rows                  +1.04% (0.16) 0.0062    +0.59% (0.10) 0.0037
        none: all in blocks, not turned    +0.67% (0.15) 0.0059    +0.59% (0.09) 0.0034

    The standard errors are over texts, for one rotation. Perplexity does not follow the divergence here,
    which is least for blocks: part of it is which way a rounding happens to fall. A prompt of 512 tokens
    takes 0.42 to 0.47 s in blocks and 0.25 to 0.28 s in rows. So the export's quality gate has to have its
    say.
    """
    nodes = weight.products
    if not nodes or weight.lookups or any(node.outputs[0].is_graph_output() for node in nodes):
        return None
    if any(_feeds_attention(node.outputs[0]) or _is_attended(node.inputs[0]) for node in nodes):
        return None
    if all(_is_normed(node.inputs[0]) for node in nodes):
        return RowKernel()
    return _mixing(weight)


def text_kernel(weight: Weight) -> RowKernel | None:
    """Return how a weight of a graph that reads whole texts is multiplied in integers, or None.

    It is for every product but the logits. A layer norm does not commute with a rotation, so all rows are
    mixed. Measured with RXNMapper's ALBERT on 1238 hidden tokens of molecules: 99.4% of the likeliest fills
    are float32's, as in blocks; divergence 0.0010, in blocks 0.0012; without mixing 98.9% and 0.0016. With a
    BERT base 16 texts of 64 tokens took 0.57 s of one core for two fills each and 0.78 s for all logits, in
    blocks 1.00 and 1.04 s, in float32 1.16 and 1.60 s, and with torch 2.1 and 2.8 to 3.3 s.
    """
    if not weight.products or weight.lookups:
        return None
    if any(_is_logits(node.outputs[0]) for node in weight.products):
        return None
    return _mixing(weight)


def _mixing(weight: Weight) -> RowKernel | None:
    width = weight.array.shape[1]
    return next((RowKernel(mixed=size) for size in _MIXED if width % size == 0), None)


def _is_logits(value: ir.Value) -> bool:
    """Say whether a value is what the graph gives, but for a bias."""
    return value.is_graph_output() or any(
        node.op_type == "Add" and node.outputs[0].is_graph_output() for node, _ in value.uses()
    )


def _origin(value: ir.Value | None) -> str:
    """Return the operator that made a value, before it was cut or reshaped."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in ("Slice", "Reshape", "Transpose"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return "" if node is None else node.op_type


def _is_normed(value: ir.Value | None) -> bool:
    return _origin(value) in _NORMS


def _is_attended(value: ir.Value | None) -> bool:
    return _origin(value).endswith("Attention")


def _feeds_attention(value: ir.Value) -> bool:
    return any(
        node.op_type.endswith("Attention")
        or (node.op_type in _TO_ATTENTION and any(map(_feeds_attention, node.outputs)))
        for node, _ in value.uses()
    )


@frozen
class RowKernel:
    """Products of bytes: MatMulIntegerToFloat on rows that are rounded each by itself.

    Attributes:
        mixed: neighbours in a row that a Hadamard matrix mixes before they are rounded, so that one of them
            does not take all steps for itself; the weight is turned alike, and the product stays. A power of
            two that divides K; 1 for none. For rows that no norm makes alike.
    """

    mixed: int = 1

    def stored(self, weight: Weight, moments: Sequence[np.ndarray] | None = None) -> Columns:
        """Return the rounded weight; 8 bits are enough to round to the nearest."""
        array = weight.array
        if self.mixed > 1:
            array = (array.reshape(-1, self.mixed) @ hadamard(self.mixed)).reshape(array.shape)
        return by_column(array)

    def rewrite(self, graph: ir.Graph, weight: Weight, stored: object) -> None:
        """Put integer products for the float ones. Lookups of the weight stay as they are."""
        assert isinstance(stored, Columns)
        data = initializer(graph, f"{weight.name}.columns", stored.data)
        for node in weight.products:
            alpha = np.float32(node.attributes.get_float("alpha", 1.0))
            scales = _constant(graph, f"{weight.name}.scales.{alpha:g}", stored.scales * alpha)
            if self.mixed > 1:
                node.replace_input_with(0, _mixed(graph, node, self.mixed))
            _rewrite_product(graph, node, data, scales)
        if not weight.value.uses():
            del graph.initializers[weight.name]


def _rewrite_product(graph: ir.Graph, node: ir.Node, data: ir.Value, scales: ir.Value) -> None:
    source = node.inputs[0]
    assert source is not None
    rounded, largest = _rounded(graph, node, source)
    step = _constant(graph, "rows.step", np.array(1 / _MOST, np.float32))
    middle = _constant(graph, "rows.middle", np.array(_MOST + 1, np.uint8))
    product = ir.node(
        "MatMulIntegerToFloat", [rounded, data, step, scales, middle], domain=MICROSOFT
    )
    name = node.outputs[0].name
    product.outputs[0].name = f"{name}.even"
    product.outputs[0].dtype, product.outputs[0].shape = ir.DataType.FLOAT, node.outputs[0].shape
    graph.insert_before(node, product)
    whole = ir.node("Mul", [product.outputs[0], largest])
    replace(graph, node, whole)


def _mixed(graph: ir.Graph, before: ir.Node, size: int) -> ir.Value:
    """Return what a product reads with each `size` neighbours mixed."""
    source = before.inputs[0]
    assert source is not None
    matrix = _constant(graph, f"rows.mixing.{size}", hadamard(size))
    apart = _constant(graph, f"rows.apart.{size}", np.array([0, 0, -1, size]))
    together = _constant(graph, "rows.together", np.array([0, 0, -1]))
    split = ir.node("Reshape", [source, apart])
    mixed = ir.node("MatMul", [split.outputs[0], matrix])
    whole = ir.node("Reshape", [mixed.outputs[0], together])
    for name, node in (("split", split), ("mixed", mixed), ("whole", whole)):
        node.outputs[0].name = f"{source.name}.{name}"
        node.outputs[0].dtype = ir.DataType.FLOAT
        graph.insert_before(before, node)
    whole.outputs[0].shape = source.shape
    return whole.outputs[0]


def _rounded(graph: ir.Graph, before: ir.Node, source: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the rows of `source` in bytes around 128, and each row's largest number, float32 [.., 1].

    Products that read one value share its rounding.
    """
    for node, _ in source.uses():
        if node.op_type == "Div" and node.outputs[0].name == f"{source.name}.even":
            assert node.inputs[1] is not None
            return node.outputs[0].uses()[0][0].outputs[0], node.inputs[1]
    axis = _constant(graph, "rows.axis", np.array([-1]))
    least = _constant(graph, "rows.least", np.array(_SMALLEST))
    step = _constant(graph, "rows.step", np.array(1 / _MOST, np.float32))
    middle = _constant(graph, "rows.middle", np.array(_MOST + 1, np.uint8))
    highest = ir.node("ReduceMax", [source, axis], attributes={"keepdims": 1})
    lowest = ir.node("ReduceMin", [source, axis], attributes={"keepdims": 1})
    opposite = ir.node("Neg", [lowest.outputs[0]])
    largest = ir.node("Max", [highest.outputs[0], opposite.outputs[0], least])
    even = ir.node("Div", [source, largest.outputs[0]])
    rounded = ir.node("QuantizeLinear", [even.outputs[0], step, middle])
    names = ("highest", "lowest", "opposite", "largest", "even", "bytes")
    column = None if source.shape is None else ir.Shape([*list(source.shape)[:-1], 1])
    for name, node in zip(names, (highest, lowest, opposite, largest, even, rounded), strict=True):
        node.outputs[0].name = f"{source.name}.{name}"
        node.outputs[0].shape = source.shape if node in (even, rounded) else column
        node.outputs[0].dtype = ir.DataType.UINT8 if node is rounded else ir.DataType.FLOAT
        graph.insert_before(before, node)
    return rounded.outputs[0], largest.outputs[0]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Return the graph's constant of a name, made once."""
    found = graph.initializers.get(name)
    return initializer(graph, name, array) if found is None else found
