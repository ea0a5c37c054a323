"""Which weights stay higher when a precision loses too much: more of them with every rung.

What a model reads first and writes last, and the layers beside those, suffer most from rounding: whatever is
lost in the first ones goes through all others, and after the last ones nothing evens it out. So do mixed
formats elsewhere choose (llama.cpp's `use_more_bits` and its output tensor, GGUF's K-quants).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

_LAYER = re.compile(r"\.(\d+)\.")


@frozen
class Rung:
    """A way to store a precision.

    Attributes:
        share: of the layers that stay in int8, half of them the first ones and half the last; with them
            go the weights that are in no layer, such as an embedding. 0 is none of all this.
    """

    share: float

    def __str__(self) -> str:
        if not self.share:
            return ""
        return (
            "the embedding, the head and "
            f"{f'the outer {self.share:.0%} of' if self.share < 1 else 'all'} layers stay in int8"
        )


RUNGS = (Rung(0), Rung(0.125), Rung(0.25), Rung(0.5))


def kept_higher(rung: Rung, names: Sequence[str]) -> frozenset[str]:
    """Return the weights that stay in int8.

    Args:
        rung: how many do.
        names: all weights' names; a layer's have its number between two dots.

    >>> sorted(kept_higher(Rung(0.5), ["head", "h.0.a", "h.1.a", "h.2.a", "h.3.a"]))
    ['h.0.a', 'h.3.a', 'head']
    """
    if not rung.share:
        return frozenset()
    layers = {name: int(found[1]) for name in names if (found := _LAYER.search(name))}
    count = max(layers.values(), default=-1) + 1
    outer = max(1, round(count * rung.share / 2))
    return frozenset(
        name for name in names if name not in layers or not outer <= layers[name] < count - outer
    )
