"""One call that takes a fused graph and gives back the graph of another precision."""

from __future__ import annotations

import onnx_ir as ir
from attrs import field, frozen

from lmkit.errors import UnknownName
from lmkit.export.quantizing.blocks import Format
from lmkit.export.quantizing.dynamic import row_kernel
from lmkit.export.quantizing.kernels import BlockKernel, Kernel
from lmkit.export.quantizing.rotating import MATRIX, rotate
from lmkit.export.quantizing.weights import Weight, weights

_SMALLEST = 1 << 14  # numbers; below that a weight's blocks save next to nothing
_KERNELS: dict[str, BlockKernel] = {
    "int4": BlockKernel(format=Format(bits=4, block=32)),
    "int8": BlockKernel(format=Format(bits=8, block=32, zero_points=False)),
}


@frozen(eq=False)
class Store:
    """Rounded weights by the memory they come from, so that graphs that share a weight share it rounded.

    Give one store to every call for a bundle: an encoder and a decoder that share an embedding then hold the
    same arrays, which are written once.
    """

    _kept: dict[tuple[object, ...], tuple[object, object]] = field(factory=dict, init=False)

    def stored(self, kernel: Kernel, weight: Weight) -> object:
        """Return the weight as the kernel stores it, rounded at most once."""
        array = weight.array
        place = array.__array_interface__["data"][0]
        key = (kernel, place, array.shape, array.strides)
        if key not in self._kept:
            # The array is kept with it, so that its address is not used again.
            self._kept[key] = (kernel.stored(weight), array)
        return self._kept[key][0]


def quantize(model: ir.Model, precision: str, *, store: Store | None = None) -> ir.Model:
    """Return a graph whose constant matrices are stored in fewer bits.

    Args:
        model: a fused graph in float32; it stays as it is.
        precision: `fp32` (the graph as it is), `int8` or `int4`.
        store: what was rounded for other graphs of the same bundle.
    Returns:
        a new graph of the same inputs and outputs; what is not rounded is the given graph's memory.
    Raises:
        UnknownName: the precision is not one of these.
    """
    if precision == "fp32":
        return model
    if precision not in _KERNELS:
        raise UnknownName("precision", precision, ("fp32", *_KERNELS))
    blocks = _KERNELS[precision]
    store = Store() if store is None else store
    smaller = model.clone()
    turned = precision == "int8" and rotate(smaller.graph)
    for weight in weights(smaller.graph):
        if weight.array.size >= _SMALLEST and weight.name.split(".")[0] != MATRIX:
            rows = row_kernel(weight) if turned else None
            # What was made for integer products is this graph's alone.
            stored = store.stored(blocks, weight) if rows is None else rows.stored(weight)
            (rows or blocks).rewrite(smaller.graph, weight, stored)
    smaller.opset_imports.setdefault("com.microsoft", 1)
    return smaller
