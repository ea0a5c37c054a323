"""A graph in pieces that run one after another, so that only one piece's weights are in memory at a time.

A piece begins with what the pieces before it have computed and later ones read, which is little where a
piece ends between two layers. What no weight has a part in, as masks and positions are, each piece computes
itself from the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx_ir as ir
from attrs import frozen

PIECE = 1 << 25  # bytes of weights in a piece, where no single one has more
SMALL = 1024  # bytes; a smaller constant makes no value weighty


@frozen(eq=False, kw_only=True)
class Piece:
    """A part of a graph.

    Attributes:
        nodes: what it computes, in order.
        inputs: what it reads, of the graph's inputs and of earlier pieces.
        wanted: the values that are wanted of it.
        handed_on: the values that later pieces read.
        needed: of all values that were handed on so far, its own included, those that later pieces read.
    """

    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value]
    wanted: Sequence[ir.Value]
    handed_on: Sequence[ir.Value]
    needed: frozenset[str]


def pieces(graph: ir.Graph, wanted: Collection[ir.Value], most: int = PIECE) -> list[Piece]:
    """Cut a graph into pieces, in the order in which they run.

    Args:
        graph: a sorted graph; one with subgraphs is one piece.
        wanted: values of its nodes that are to be found. Nothing is computed that they do not need.
        most: bytes of weights in a piece.
    """
    if any(_has_subgraph(node) for node in graph):
        given = [value for value in graph.inputs if is_given(value)]
        return [
            Piece(nodes=[*graph], inputs=given, wanted=[*wanted], handed_on=(), needed=frozenset())
        ]
    nodes = _behind([*graph], wanted, ())
    weighty: set[ir.Value] = set()
    for node in nodes:
        if any(size_of(value) or value in weighty for value in _read(node)):
            weighty.update(node.outputs)
    late = [node for node in nodes if weighty.intersection(node.outputs)]
    early = [value for value in wanted if value not in weighty]  # the first piece finds them, too
    found, start = [], 0
    for stop in _ends(late, most):
        made = {value for node in late[start:stop] for value in node.outputs}
        needed = {value for node in late[stop:] for value in _read(node)} & weighty
        own = [value for value in wanted if value in made] + early
        handed_on = [
            value for node in late[start:stop] for value in node.outputs if value in needed
        ]
        computed = _behind(nodes, [*own, *handed_on], weighty - made)
        inside = {value for node in computed for value in node.outputs}
        read = {value for node in computed for value in _read(node)} - inside
        found.append(
            Piece(
                nodes=computed,
                inputs=[value for value in read if value in weighty or is_given(value)],
                wanted=own,
                handed_on=handed_on,
                needed=frozenset(str(value.name) for value in needed),
            )
        )
        start, early = stop, []
    return found


def size_of(value: ir.Value) -> int:
    """Return the bytes of a large constant; 0 for what is none."""
    tensor = value.const_value
    if tensor is None or not value.is_initializer() or tensor.nbytes < SMALL:
        return 0
    return int(tensor.nbytes)


def is_given(value: ir.Value) -> bool:
    """Say whether a graph cannot run without being given a value."""
    return value.is_graph_input() and not value.is_initializer()


def _ends(nodes: Sequence[ir.Node], most: int) -> Iterator[int]:
    """Yield where pieces end, each of the places possible where the least is handed on."""
    last = {value: place for place, node in enumerate(nodes) for value in _read(node)}
    crossing = [0] * (len(nodes) + 1)  # how many values are handed on where a piece ends at a place
    for place, node in enumerate(nodes):
        for value in node.outputs:
            for between in range(place + 1, last.get(value, 0) + 1):
                crossing[between] += 1
    size, best = 0, 0
    for place, node in enumerate(nodes):
        size += sum(map(size_of, set(_read(node))))
        if size > most and best:
            yield best
            size, best = sum(sum(map(size_of, set(_read(n)))) for n in nodes[best : place + 1]), 0
        if size > most // 2 and (not best or crossing[place + 1] <= crossing[best]):
            best = place + 1
    if nodes:
        yield len(nodes)


def _behind(
    nodes: Sequence[ir.Node], values: Iterable[ir.Value], known: Collection[ir.Value]
) -> list[ir.Node]:
    """Return those of some sorted nodes that it takes to compute values, where others are known."""
    missing = set(values)
    found = []
    for node in reversed(nodes):
        if missing.intersection(node.outputs):
            found.append(node)
            missing.update(value for value in _read(node) if value not in known)
    return found[::-1]


def _read(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def _has_subgraph(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    )
