"""The graph that checks a draft: many tokens at once, each as if it had been read alone.

onnxruntime's attention adds in another order when it is given several new tokens. In a graph whose products
round what they multiply, a difference in the last bit grows until it decides between tokens; so a draft
could not be checked there. Here every attention node is replaced by a chain of nodes of one new token each,
which write into the same buffer of keys and values one after another. All else is computed row by row in
the same way for one token as for several, as far as the kernels of a machine go; whether they do is for
the runtime to see.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lmkit.export.fusing import MICROSOFT
from lmkit.export.fusing.rewriting import initializer
from lmkit.saving.precisions import DRAFT_TOKENS, draft_port

_ATTENTION = "GroupQueryAttention"
_ROUNDING = ("MatMulNBits", "MatMulIntegerToFloat")
# Its inputs: queries, keys, values (or the first for all), the past, its lengths, and two tables of angles.
_N_INPUTS = 9


def chained(model: ir.Model, n_tokens: int = DRAFT_TOKENS) -> ir.Model | None:
    """Return a causal graph that reads exactly so many tokens of one row, one after another.

    Args:
        model: a causal graph; it stays as it is, and its weights are those of the new one.
        n_tokens: K.
    Returns:
        A graph of the same inputs. For each `present.*` it has K - 1 more outputs, named by
        `lmkit.saving.precisions.draft_port`; all of them are to be bound to the same buffer. None where
        nothing is rounded, or attention is not of the form that is known here.
    """
    whole = model.clone()
    graph = whole.graph
    nodes = [node for node in graph if node.op_type == _ATTENTION]
    outputs = set(graph.outputs)
    rounds = any(node.op_type in _ROUNDING for node in graph)
    if (
        not nodes
        or not rounds
        or any(
            any(given is not None for given in node.inputs[_N_INPUTS:])
            or len(node.inputs) < 7
            or any(given is None or not given.is_graph_input() for given in node.inputs[3:5])
            or not outputs.issuperset(node.outputs[1:3])
            for node in nodes
        )
    ):
        return None
    pieces = initializer(graph, "draft.pieces", np.ones(n_tokens, np.int64))
    behind = [
        initializer(graph, f"draft.behind.{count}", np.array(count, np.int32))
        for count in range(n_tokens)
    ]
    lengths: dict[ir.Value, list[ir.Value]] = {}
    for node in nodes:
        for given in node.inputs[5:7]:
            assert given is not None
            if given not in lengths:
                found = [ir.node("Sub", [given, less]) for less in reversed(behind)]
                graph.insert_before(node, found)
                lengths[given] = [each.outputs[0] for each in found]
        _chain(graph, node, pieces, [lengths[given] for given in node.inputs[5:7] if given])
    return whole


def _chain(graph: ir.Graph, node: ir.Node, pieces: ir.Value, lengths: list[list[ir.Value]]) -> None:
    """Put a chain of nodes in the place of one."""
    n_tokens = len(lengths[0])
    parts: list[list[ir.Value | None]] = []
    for given in node.inputs[:3]:
        if given is None:
            parts.append([None] * n_tokens)
            continue
        split = ir.node("Split", [given, pieces], {"axis": 1}, num_outputs=n_tokens)
        graph.insert_before(node, split)
        parts.append(list(split.outputs))
    answers = []
    past = list(node.inputs[3:5])
    last = list(node.outputs[1:3])
    for place in range(n_tokens):
        step = ir.Node(
            MICROSOFT,
            _ATTENTION,
            [
                *(part[place] for part in parts),
                *past,
                *(each[place] for each in lengths),
                *node.inputs[7:_N_INPUTS],
            ],
            list(node.attributes.values()),
            num_outputs=3,
            name=f"{node.name}.{place}",
        )
        graph.insert_before(node, step)
        answers.append(step.outputs[0])
        for value, whole in zip(step.outputs[1:], last, strict=True):
            assert whole.name is not None
            value.type, value.shape = whole.type, whole.shape
            if place < n_tokens - 1:
                value.name = draft_port(whole.name, place)
                graph.outputs.append(value)
        past = list(step.outputs[1:])
    joined = ir.node("Concat", answers, {"axis": 1})
    graph.insert_before(node, joined)
    joined.outputs[0].type, joined.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    node.outputs[0].replace_all_uses_with(joined.outputs[0])
    for old, new in zip(last, past, strict=True):
        assert new is not None
        name, place = old.name, graph.outputs.index(old)
        old.name = f"{name}.before"
        new.name = name
        graph.outputs[place] = new
    graph.remove(node, safe=True)
