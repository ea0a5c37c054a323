"""One call that takes a fused graph and gives back the graph of another precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from attrs import field, frozen

from lmkit.errors import UnknownName
from lmkit.export.external import unmapped
from lmkit.export.fusing.rewriting import MICROSOFT
from lmkit.export.quantizing.blocks import Format
from lmkit.export.quantizing.dynamic import row_kernel, text_kernel
from lmkit.export.quantizing.kernels import BlockKernel, Kernel
from lmkit.export.quantizing.roles import ATTENTION, roles
from lmkit.export.quantizing.rotating import MATRIX, rotate
from lmkit.export.quantizing.weights import Weight, weights

Moments = Mapping[str, Sequence[np.ndarray]]  # by the weight's name

SMALLEST = 1 << 14  # numbers; below that a weight's blocks save next to nothing
# SmolLM2-135M, all by 3774 tokens and with float32 scales, divergence in nats as in `roles` and size as a
# share of float32's. With measured inputs: all in 4 bits 0.148 / 0.137 and 0.162, attention's products in
# 8 0.100 / 0.091 and 0.175, head and embedding in 8 as well 0.078 / 0.068 and 0.197; without measured
# inputs, all in 4 bits 0.447 / 0.268. By 12000 tokens blocks of 64 in place of 32 cost 0.116 / 0.120 in
# place of 0.082 / 0.084. One thread's products of a step, in milliseconds, with 4 bits and zero points in
# blocks of 32 / of 64 / 64 without zero points / 8 bits in 64: queries, keys and values 0.94 / 0.83 /
# 0.68 / 1.32, attention's output 0.76 / 0.55 / 0.56 / 0.76, gate and up 2.04 / 1.86 / 1.83 / 3.39, down
# 1.18 / 1.09 / 0.88 / 1.48, head 1.05 / 0.93 / 0.94 / 1.85.
_INT8 = BlockKernel(format=Format(bits=8, block=64, zero_points=False))
_INT4 = BlockKernel(format=Format(bits=4, block=32))
_KERNELS: dict[str, Kernel] = {"int4": _INT4, "int8": _INT8}


@frozen(eq=False)
class Store:
    """Rounded weights by the memory they come from, so that graphs that share a weight share it rounded.

    Give one store to every call for a bundle: an encoder and a decoder that share an embedding then hold the
    same arrays, which are written once.
    """

    _kept: dict[tuple[object, ...], tuple[object, object]] = field(factory=dict, init=False)

    def stored(
        self, kernel: Kernel, weight: Weight, moments: Sequence[np.ndarray] | None = None
    ) -> object:
        """Return the weight as the kernel stores it, rounded at most once."""
        array, tensor = weight.array, weight.value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            # Graphs that are read anew map the file anew; an array that is kept would keep it mapped.
            place, held = (str(tensor.path), tensor.offset), None
        else:
            # The array is kept with it, so that its address is not used again.
            place, held = array.__array_interface__["data"][0], array
        key = (kernel, place, array.shape, array.strides)
        if key not in self._kept:
            self._kept[key] = (kernel.stored(weight, moments), held)
        return self._kept[key][0]


def quantize(
    model: ir.Model,
    precision: str,
    *,
    higher: Collection[str] = (),
    careful: bool = False,
    moments: Moments | None = None,
    store: Store | None = None,
) -> ir.Model:
    """Return a graph whose constant matrices are stored in fewer bits.

    Args:
        model: a fused graph in float32; it stays as it is.
        precision: `fp32` (the graph as it is), `int8` or `int4`.
        higher: the names of weights that are stored in 8 bits where the precision has 4.
        careful: whether int8 rounds what it multiplies in blocks, too, and nowhere in whole rows; see
            `dynamic.row_kernel` for what either loses.
        moments: what the graph's products multiply, as `second_moments` measures it on a few inputs. With it
            4-bit weights lose a third to a quarter as much.
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
    turned = model.clone()
    if precision == "int8" and not careful and rotate(turned.graph):
        # What is known of the given graph's numbers does not hold for the turned ones.
        return rewritten(turned, lambda weight: _kernel_of_turned(weight, blocks), store=store)

    whole_texts = precision == "int8" and not careful and _reads_whole_texts(model.graph)

    def choose(weight: Weight) -> Kernel | None:
        if weight.array.size < SMALLEST:
            return None
        if whole_texts:
            return text_kernel(weight) or blocks
        # Attention's queries, keys and values lose more than they save.
        kept = weight.name in higher or (precision == "int4" and ATTENTION in roles(weight))
        return _INT8 if kept else blocks

    return rewritten(model, choose, moments=moments, store=store)


def _kernel_of_turned(weight: Weight, blocks: Kernel) -> Kernel | None:
    if weight.array.size < SMALLEST or weight.name.split(".")[0] == MATRIX:
        return None
    return row_kernel(weight) or blocks


def _reads_whole_texts(graph: ir.Graph) -> bool:
    """Say whether a graph gives logits and keeps nothing for a next step, as a masked model does."""
    kinds = {node.op_type for node in graph}
    return [value.name for value in graph.outputs] == ["logits"] and "MultiHeadAttention" in kinds


def rewritten(
    model: ir.Model,
    choose: Callable[[Weight], Kernel | None],
    *,
    moments: Moments | None = None,
    store: Store | None = None,
) -> ir.Model:
    """Return a graph in which each weight is read by the kernel chosen for it.

    Args:
        model: a fused graph in float32; it stays as it is.
        choose: gives a weight's kernel, or None for one that stays.
        moments: see `quantize`.
        store: likewise.
    """
    store = Store() if store is None else store
    smaller = model.clone()
    for weight in weights(smaller.graph):
        kernel = choose(weight)
        if kernel is not None:
            known = None if moments is None else moments.get(weight.name)
            if isinstance(weight.value.const_value, ir.LazyTensor):
                # Made for this graph alone: a store would only keep it in memory.
                stored = kernel.stored(weight, known)
            else:
                stored = store.stored(kernel, weight, known)
            unmapped(weight.value.const_value)
            kernel.rewrite(smaller.graph, weight, stored)
    smaller.opset_imports.setdefault(MICROSOFT, 1)
    return smaller
