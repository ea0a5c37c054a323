"""Which weights stay higher when a precision loses too much: more of them with every rung.

What a model reads first and writes last, and the layers beside those, suffer most from rounding: whatever is
lost in the first ones goes through all others, and after the last ones nothing evens it out. So do mixed
formats elsewhere choose (llama.cpp's `use_more_bits` and its output tensor, GGUF's K-quants).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
from attrs import frozen

from lmkit.export.quantizing.weights import weights


@frozen
class Rung:
    """A way to store a precision.

    Attributes:
        share: of the weights that stay in int8, half of them the first that are read and half the last;
            with them goes an embedding. 0 is none of all this.
        careful: whether weights alone are rounded, and never what they are multiplied with.
    """

    share: float = 0.0
    careful: bool = False

    def __str__(self) -> str:
        if self.careful:
            return "weights alone are rounded, so prompts are read more slowly"
        if not self.share:
            return ""
        return (
            f"embeddings and the outer {self.share:.3g} of the weights, in the order they are read, "
            "stay in int8"
        )


RUNGS = {
    "fp32": (Rung(),),
    "int8": (Rung(), Rung(careful=True)),
    "int4": (Rung(), Rung(0.125), Rung(0.25), Rung(0.5)),
}


def kept_higher(rung: Rung, graph: ir.Graph) -> frozenset[str]:
    """Return the names of a graph's weights that stay in int8."""
    if not rung.share:
        return frozenset()
    places = {node: place for place, node in enumerate(graph)}
    found = list(weights(graph))
    lookups = [weight.name for weight in found if weight.lookups]
    found.sort(key=lambda weight: min(places[n] for n in (*weight.products, *weight.lookups)))
    return frozenset([*lookups, *outer([weight.name for weight in found], rung.share)])


def outer(names: Sequence[str], share: float) -> list[str]:
    """Return a share of some names, as many from either end; at least one of each.

    >>> outer(["a", "b", "c", "d", "e", "f", "g", "h"], 0.5)
    ['a', 'b', 'g', 'h']
    """
    count = math.ceil(len(names) * share / 2)
    return [*names[:count], *names[max(count, len(names) - count) :]]
