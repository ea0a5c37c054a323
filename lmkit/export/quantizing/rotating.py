"""Spread outliers evenly before rounding: the residual stream is turned by an orthogonal matrix.

A few channels of a language model's hidden states are many times larger than the others, and rounding to 8
bits by the largest leaves little for the rest. An RMS norm commutes with a rotation, so every weight that
writes into the stream is multiplied by a rotation once, here, and every weight that reads from it by its
inverse and by the norm's scale: the graph computes the same numbers from channels that are alike. On
SmolLM2-135M a row's largest number falls from 11 to 20 times its mean square to about 4 times.

The method is QuaRot's (arXiv:2404.00456), without what it does inside attention and the gated product. The
embedding and the head keep their numbers, so that they may stay one weight: the stream is turned behind the
one and back before the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir
from attrs import field, frozen

from lmkit.export.fusing.rewriting import MICROSOFT, initializer

MATRIX = "rotation"  # how the names of its constants begin, which stay in float32
_LARGEST = 64  # of a factor that is a power of two
_NORMS = {("", "SimplifiedLayerNormalization"), (MICROSOFT, "SkipSimplifiedLayerNormalization")}


@frozen(eq=False)
class Rotation:
    """An orthogonal matrix [D, D] as a Kronecker product of small ones, with random signs before it.

    Attributes:
        signs: float32 [D], each 1 or -1.
        factors: float32 [f, f] each; their sizes multiply to D.
    """

    signs: np.ndarray
    factors: tuple[np.ndarray, ...]

    def turned(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 [N, D] times the matrix."""
        out = np.ascontiguousarray(rows * self.signs)
        behind = rows.shape[-1]
        for factor in self.factors:
            size = len(factor)
            behind //= size
            # Each factor turns one axis, which is brought to the end for one large product.
            along = out.reshape(-1, size, behind).swapaxes(1, 2)
            out = (along.reshape(-1, size) @ factor).reshape(along.shape).swapaxes(1, 2)
        whole: np.ndarray = out.reshape(rows.shape)
        return whole


def rotation(width: int) -> Rotation:
    """Return a rotation of a width: Hadamard matrices, and a random one for the odd part; always the same."""
    rng = np.random.default_rng(width)
    factors, rest = [], width
    while rest % 2 == 0:
        size = min(_LARGEST, rest & -rest)
        factors.append(hadamard(size))
        rest //= size
    if rest > 1:
        factors.append(np.linalg.qr(rng.standard_normal((rest, rest)))[0].astype(np.float32))
    signs = rng.choice(np.array([-1, 1], np.float32), width)
    return Rotation(signs, tuple(factors))


def hadamard(size: int) -> np.ndarray:
    """Return the orthogonal float32 [size, size] of Sylvester's construction; a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    normed: np.ndarray = (matrix / np.sqrt(size)).astype(np.float32)
    return normed


@frozen(eq=False)
class _Stream:
    """The nodes around the residual stream.

    Attributes:
        start: the value that the stream begins with.
        norms: the nodes that norm it, each with a scale [D].
        writers: the constants whose rows are added to it: weights [K, D] and biases [D].
        readers: for each norm, the weights [D, N] of the products that read it.
        exits: for each norm, its output, perhaps cut, with the uses of it that are no such products.
    """

    start: ir.Value
    norms: list[ir.Node] = field(factory=list)
    writers: list[ir.Value] = field(factory=list)
    readers: list[tuple[ir.Node, ir.Value]] = field(factory=list)
    exits: list[tuple[ir.Node, ir.Value, tuple[ir.Usage, ...]]] = field(factory=list)


def rotate(graph: ir.Graph) -> bool:
    """Turn the residual stream of a fused graph, in place; the graph computes the same numbers.

    Returns:
        whether it did; a graph with other norms than RMS norms, or whose stream is read or written in a way
        that a rotation does not commute with, stays as it is.
    """
    stream = _stream(graph)
    if stream is None:
        return False
    scales = {node: _array(_scale(node)) for node in stream.norms}
    width = len(next(iter(scales.values())))
    turn = rotation(width)
    for value in stream.writers:
        _set(value, partial(_written, turn, _array(value)))
    for norm, value in stream.readers:
        _set(value, partial(_read, turn, _array(value), scales[norm]))
    matrix = turn.turned(np.eye(width, dtype=np.float32))
    _multiply(graph, stream.start, stream.start.uses(), initializer(graph, MATRIX, matrix))
    for number, (norm, value, uses) in enumerate(stream.exits):
        back = np.ascontiguousarray(matrix.T * scales[norm])
        _multiply(graph, value, uses, initializer(graph, f"{MATRIX}.back.{number}", back))
    ones = initializer(graph, f"{MATRIX}.scale", np.ones(width, np.float32))
    for norm in stream.norms:
        norm.replace_input_with(list(norm.inputs).index(_scale(norm)), ones)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        if not graph.initializers[name].is_graph_output():
            del graph.initializers[name]
    return True


def _stream(graph: ir.Graph) -> _Stream | None:
    start = _start(graph)
    if start is None:
        return None
    found, added = _Stream(start), []
    values, known = [start], {start}
    for value in values:
        if value.is_graph_output():
            return None
        for node, index in value.uses():
            onward = None
            if (node.domain, node.op_type) == ("", "Slice") and index == 0:
                onward = node.outputs[0]
            elif node.op_type == "Add" and node.domain == "":
                added.append(node.inputs[1 - index])
                onward = node.outputs[0]
            elif (node.domain, node.op_type) in _NORMS and index < (1 + (node.domain == MICROSOFT)):
                if node not in found.norms:
                    found.norms.append(node)
                if node.domain == MICROSOFT:
                    added.append(node.inputs[1 - index])
                    if len(node.inputs) > 3 or any(out.uses() for out in node.outputs[1:3]):
                        return None
                    onward = node.outputs[3] if len(node.outputs) > 3 else None
            else:
                return None
            if onward is not None and onward not in known:
                known.add(onward)
                values.append(onward)
    for other in dict.fromkeys(added):
        if other not in known and not _find_writer(other, found):
            return None
    return found if all(_find_readers(norm, found) for norm in found.norms) else None


def _start(graph: ir.Graph) -> ir.Value | None:
    """Return the rows of the embedding, scaled where the model does that."""
    for node in graph:
        table = node.inputs[0] if node.inputs else None
        if node.op_type != "Gather" or table is None or table.const_value is None:
            continue
        if table.const_value.dtype != ir.DataType.FLOAT or len(table.const_value.shape) != 2:
            continue
        value = node.outputs[0]
        while len(value.uses()) == 1 and value.uses()[0][0].op_type == "Mul":
            value = value.uses()[0][0].outputs[0]
        return value
    return None


def _find_writer(value: ir.Value | None, found: _Stream) -> bool:
    """Note the weight, and the bias, that make what is added to the stream."""
    node = None if value is None else value.producer()
    if value is None or node is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if (node.domain, node.op_type) == ("", "Slice"):
        return _find_writer(node.inputs[0], found)
    if (node.domain, node.op_type) == ("", "Add"):
        for bias, product in (node.inputs, reversed(node.inputs)):
            if bias is not None and _is_own(bias, 1):
                found.writers.append(bias)
                return _find_writer(product, found)
    weight = node.inputs[1] if (node.domain, node.op_type) == ("", "MatMul") else None
    if weight is None or not _is_own(weight, 2):
        return False
    found.writers.append(weight)
    return True


def _find_readers(norm: ir.Node, found: _Stream) -> bool:
    """Note what reads a norm; say whether its scale is a constant."""
    scale = _scale(norm)
    if scale.const_value is None or len(scale.const_value.shape) != 1:
        return False
    values = [norm.outputs[0]]
    for value in values:
        if value.is_graph_output():
            return False
        others = []
        for use in value.uses():
            node, index = use
            weight = node.inputs[1] if (node.domain, node.op_type) == ("", "MatMul") else None
            if weight is not None and index == 0 and _is_own(weight, 2):
                # A head keeps its numbers: it may be shared, and is worth more digits.
                if not node.outputs[0].is_graph_output():
                    found.readers.append((norm, weight))
                    continue
            elif (node.domain, node.op_type) == ("", "Slice") and index == 0:
                values.append(node.outputs[0])
                continue
            others.append(use)
        if others:
            found.exits.append((norm, value, tuple(others)))
    return True


def _is_own(value: ir.Value, rank: int) -> bool:
    """Say whether a value is a float32 constant of a rank that one node alone reads."""
    tensor = value.const_value
    return (
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and len(tensor.shape) == rank
        and len(value.uses()) == 1
        and not value.is_graph_output()
        and not value.is_graph_input()
    )


def _scale(norm: ir.Node) -> ir.Value:
    value = norm.inputs[2 if norm.domain == MICROSOFT else 1]
    assert value is not None
    return value


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    array: np.ndarray = value.const_value.numpy()
    return array


def _written(turn: Rotation, array: np.ndarray) -> ir.TensorProtocol:
    rows = array.reshape(-1, array.shape[-1])
    return ir.tensor(turn.turned(rows).reshape(array.shape))


def _read(turn: Rotation, array: np.ndarray, scale: np.ndarray) -> ir.TensorProtocol:
    return ir.tensor(turn.turned((array * scale[:, None]).T).T)


def _set(value: ir.Value, compute: Callable[[], ir.TensorProtocol]) -> None:
    """Give a constant other numbers, computed when they are asked for, so that few lie in memory at once."""
    assert value.const_value is not None
    value.const_value = ir.LazyTensor(
        compute, dtype=ir.DataType.FLOAT, shape=value.const_value.shape, name=value.name
    )


def _multiply(graph: ir.Graph, value: ir.Value, uses: Sequence[ir.Usage], matrix: ir.Value) -> None:
    """Let some uses of `value` read it times a matrix."""
    producer = value.producer()
    assert producer is not None
    turned = ir.node("MatMul", [value, matrix])
    turned.outputs[0].name = f"{value.name}.turned"
    turned.outputs[0].shape, turned.outputs[0].dtype = value.shape, ir.DataType.FLOAT
    for node, index in uses:
        node.replace_input_with(index, turned.outputs[0])
    graph.insert_after(producer, turned)
