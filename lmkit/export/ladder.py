"""Which weights stay in int8 when int4 loses too much: more of them with every rung.

They are chosen by what they do in the model (`quantizing.roles`), those first whose rounding costs most for
the bytes that it saves. What attention reads is in 8 bits in every int4.

SmolLM2-135M rounded by 3774 tokens of its tasks: divergence from float32 in nats (as in `roles`), the rise of
perplexity, and size as a share of float32's:

    in int8 beside attention                divergence       perplexity       size
    nothing                                 0.112 / 0.088    +8.1% / +10.0%   0.175
    nothing, without zero points            0.130 / 0.097    +9.8% / +10.4%   0.171
    down                                    0.074 / 0.065    +4.2% / +8.8%    0.195
    down, head and embedding                0.045 / 0.042    +5.9% / +5.7%    0.218
"""

from __future__ import annotations

import onnx_ir as ir
from attrs import frozen

from lmkit.export.quantizing.roles import DOWN, HEAD, LOOKUP, roles
from lmkit.export.quantizing.weights import weights


@frozen
class Rung:
    """A way to store a precision.

    Attributes:
        roles: weights that do one of these stay in int8.
        others: the share of all other weights that stay in int8 as well, spread over the layers.
        careful: whether numbers are rounded in small blocks only, weights and what they are multiplied with.
        plan: the same in words.
    """

    roles: frozenset[str] = frozenset()
    others: float = 0.0
    careful: bool = False
    plan: str = ""

    def __str__(self) -> str:
        return self.plan


_OUTER = frozenset([DOWN, HEAD, LOOKUP])

RUNGS = {
    "fp32": (Rung(),),
    "int8": (
        Rung(),
        Rung(
            careful=True, plan="numbers are rounded in blocks only, so prompts are read more slowly"
        ),
    ),
    "int4": (
        Rung(),
        Rung(frozenset([DOWN]), plan="products that close a feed-forward layer stay in int8"),
        Rung(_OUTER, plan="embeddings, logits and products that close a layer stay in int8"),
        Rung(
            _OUTER,
            others=0.5,
            plan="embeddings, logits, products that close a layer and half of the others stay in int8",
        ),
    ),
}


def kept_higher(rung: Rung, graph: ir.Graph) -> frozenset[str]:
    """Return the names of a graph's weights that stay in int8."""
    found = list(weights(graph))
    kept = {weight.name for weight in found if roles(weight) & rung.roles}
    if not rung.others:
        return frozenset(kept)
    places = {node: place for place, node in enumerate(graph)}
    rest = [weight for weight in found if weight.name not in kept]
    rest.sort(key=lambda weight: min(places[n] for n in (*weight.products, *weight.lookups)))
    # Each adds its share, and every time that this passes a whole number one is kept.
    kept |= {
        weight.name
        for place, weight in enumerate(rest)
        if int((place + 1) * rung.others) > int(place * rung.others)
    }
    return frozenset(kept)
