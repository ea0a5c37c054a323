"""Which weights stay in int8 when int4 loses too much: more of them with every rung.

They are chosen by what they do in the model (`quantizing.roles`), those first whose rounding costs most for
the bytes that it saves. What attention reads is in 8 bits in every int4, and so are two in three of the
products that close a feed-forward layer: more would not fit 0.18 times float32's size.

SmolLM2-135M, rounded by 7542 tokens of chats / 8192 of instructions: divergence from float32 in nats (as in
`roles`, on 1545 / 1602 learned tokens), the rise of perplexity (on 4113 / 4053), and size as a share of
float32's:

    in int8 beside attention                divergence       perplexity       size
    two in three that close a layer         0.057 / 0.064    +3.4% / +4.8%    0.179

A model of that size made by onnxruntime-genai 0.18, all in 4 bits by the nearest numbers, +28.4% / +32.4% on
the same tokens. Before, by 3774 tokens of both and with float32 scales, on 868 / 1225 tokens: nothing in int8
beside attention 0.112 / 0.088, +8.1% / +10.0% and 0.175; all that close a layer 0.074 / 0.065, +4.2% / +8.8%
and 0.195; embedding and head as well 0.045 / 0.042, +5.9% / +5.7% and 0.218. A step's time on one core was
8.20 ms, where it was 7.67 with nothing in int8 beside attention and 6.86 in onnxruntime-genai's graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from attrs import frozen

from lmkit.export.quantizing.roles import DOWN, HEAD, LOOKUP, roles
from lmkit.export.quantizing.weights import weights


@frozen
class Rung:
    """A way to store a precision.

    Attributes:
        roles: weights that do one of these stay in int8.
        down: the share of weights that close a feed-forward layer, from all over, that stay in int8.
        others: the share of all other weights that stay in int8 as well, spread over the layers.
        careful: whether numbers are rounded in small blocks only, weights and what they are multiplied with.
        plan: the same in words.
    """

    roles: frozenset[str] = frozenset()
    down: float = 0.0
    others: float = 0.0
    careful: bool = False
    plan: str = ""

    def __str__(self) -> str:
        return self.plan


_DOWN = 2 / 3
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
        Rung(down=_DOWN),
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
    places = {node: place for place, node in enumerate(graph)}
    found.sort(key=lambda weight: min(places[n] for n in (*weight.products, *weight.lookups)))
    own = {weight.name: roles(weight) for weight in found}
    kept = {name for name, does in own.items() if does & rung.roles}
    kept |= _spread([name for name, does in own.items() if DOWN in does], rung.down)
    return frozenset(kept | _spread([name for name in own if name not in kept], rung.others))


def _spread(names: Sequence[str], share: float) -> set[str]:
    """Return a share of names, from all over."""
    # Each adds its share, and every time that this passes a whole number one is kept.
    return {
        name for place, name in enumerate(names) if int((place + 1) * share) > int(place * share)
    }
