"""What a weight does in its model, told by the nodes around it and not by its name.

Weights differ in what their rounding costs. On SmolLM2-135M (whose weights came from another 4-bit grid), the
mean divergence of the next token's distribution from float32's, in nats, with one group of weights in 4 bits
by the nearest numbers, blocks of 32 with float32 scales, on 868 learned tokens of chats / 1225 of
instructions:

    group                               share of the weights    divergence
    attention (queries, keys, values)   12%                     0.151 / 0.075
    down (closes the feed-forward)      20%                     0.092 / 0.062
    head and embedding (one weight)     21%                     0.087 / 0.035
    gate and up                         39%                     0.085 / 0.053
    attention's output                   7%                     0.015 / 0.010
    all                                                         0.461 / 0.275

Position mattered less than that: five of the thirty layers in the middle cost as much as the outer ten.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from lmkit.export.quantizing.weights import Weight

ATTENTION, DOWN, HEAD, LOOKUP = "attention", "down", "head", "lookup"

_WIDE = 1.5  # times as many inputs as outputs make a product one that closes a feed-forward layer
_THROUGH = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "Expand",
        "Identity",
        "LayerNormalization",
        "Reshape",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
_ATTENTIONS = frozenset(["Attention", "GroupQueryAttention", "MultiHeadAttention", "Softmax"])
_TO_OUTPUT = frozenset(["Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Squeeze", "Tanh"])


def roles(weight: Weight) -> frozenset[str]:
    """Return what a weight does.

    Returns:
        any of `lookup` (rows are taken of it), `head` (its products are the graph's outputs), `attention`
        (its products are queries, keys or values) and `down` (it has many more inputs than outputs).
    """
    found = {LOOKUP} if weight.lookups else set()
    products = [node.outputs[0] for node in weight.products]
    if any(_leads(value, _TO_OUTPUT, ir.Value.is_graph_output) for value in products):
        found.add(HEAD)
    elif any(_leads(value, _THROUGH, _is_attended) for value in products):
        found.add(ATTENTION)
    n_out, n_in = weight.array.shape
    if weight.products and n_in >= _WIDE * n_out:
        found.add(DOWN)
    return frozenset(found)


def _leads(value: ir.Value, through: frozenset[str], to: Callable[[ir.Value], bool]) -> bool:
    """Say whether `to` holds for a value or for what some kinds of nodes make of it."""
    seen: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if to(value):
            return True
        for node, _ in value.uses():
            if node.op_type in through and node not in seen:
                seen.add(node)
                waiting.extend(node.outputs)
    return False


def _is_attended(value: ir.Value) -> bool:
    """Say whether a value is read by an attention, or multiplied by another that is no weight."""
    return any(
        node.op_type in _ATTENTIONS
        or (
            node.op_type in ("MatMul", "FusedMatMul")
            and all(v is not None and v.const_value is None for v in node.inputs)
        )
        for node, _ in value.uses()
    )
