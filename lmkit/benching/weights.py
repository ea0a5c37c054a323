"""How many bytes of weights a graph reads for one token, from the graph itself.

The ONNX file is read as protobuf's wire format, a few fields of it, since the runtime's install has no
onnx package. A weight that is only looked up in (an embedding) counts by the row, one that is
multiplied by counts whole, and what several tensors or nodes share counts once.

Source: onnx.proto (field numbers), https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import attrs

from lmkit.errors import BundleError

# Which inputs of an operator are read one row a token.
BY_ROW: dict[str, frozenset[int]] = {
    "Gather": frozenset({0}),
    "GatherBlockQuantized": frozenset({0, 2, 3}),  # data, scales, zero points
    "RotaryEmbedding": frozenset({2, 3}),  # cosines and sines
    "GroupQueryAttention": frozenset({7, 8}),  # the same
}
# TensorProto.DataType -> bits of one number.
BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
}


@attrs.frozen
class Weight:
    """A tensor that a graph holds.

    Attributes:
        name: as nodes call it.
        shape: its dimensions.
        size_bytes: what it takes.
        place: where its bytes lie, the same for tensors that share them.
    """

    name: str
    shape: tuple[int, ...]
    size_bytes: int
    place: tuple[str, int]


def bytes_per_token(file: str | Path) -> int:
    """Return how many bytes of weights one row's next token reads.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    path = Path(file)
    try:
        with path.open("rb") as opened:
            # Closed when nothing looks into it any more; most of it, an embedded weight, is skipped.
            data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        weights, uses = _read(data)
    except (OSError, StopIteration, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise BundleError(f"'{path}' cannot be read as an ONNX graph: {error}") from error
    read: dict[tuple[str, int], int] = {}
    for weight in weights:
        for whole in uses.get(weight.name, ()):
            rows = weight.shape[0] if weight.shape and not whole else 1
            some = weight.size_bytes // max(rows, 1)
            read[weight.place] = max(read.get(weight.place, 0), some)
    return sum(read.values())


def _read(data: memoryview) -> tuple[list[Weight], dict[str, set[bool]]]:
    """Return a model's weights, and whether each name is read whole, by row, or both ways."""
    graph = next(content for number, content in _fields(data) if number == 7)
    assert isinstance(graph, memoryview)
    weights, uses = [], dict[str, set[bool]]()
    for number, content in _fields(graph):
        if number == 5 and isinstance(content, memoryview):
            weights.append(_weight(content))
        elif number == 1 and isinstance(content, memoryview):
            inputs, operator = [], ""
            for inner, part in _fields(content):
                if inner == 1:
                    inputs.append(_text(part))
                elif inner == 4:
                    operator = _text(part)
            by_row = BY_ROW.get(operator, frozenset())
            for at, name in enumerate(inputs):
                uses.setdefault(name, set()).add(at not in by_row)
    return weights, uses


def _weight(data: memoryview) -> Weight:
    shape: list[int] = []
    kind, name, size, entries = 1, "", None, dict[str, str]()
    for number, content in _fields(data):
        if number == 1:
            shape += [content] if isinstance(content, int) else _varints(content)
        elif number == 2 and isinstance(content, int):
            kind = content
        elif number == 8:
            name = _text(content)
        elif number == 13 and isinstance(content, memoryview):
            pair = dict(_fields(content))
            entries[_text(pair[1])] = _text(pair[2])
    n_numbers = 1
    for axis in shape:
        n_numbers *= axis
    size = int(entries.get("length", -(-n_numbers * BITS.get(kind, 8) // 8)))
    place = (entries["location"], int(entries.get("offset", 0))) if entries else (f"={name}", 0)
    return Weight(name, tuple(shape), size, place)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield a message's fields: their numbers, and an integer or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
        else:
            length = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                length, at = _varint(data, at)
            if length is None or at + length > len(data):
                raise ValueError(f"wire type {kind} at byte {at}")
            yield number, data[at : at + length]
            at += length


def _varints(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _text(data: int | memoryview) -> str:
    return bytes(data).decode("utf-8") if isinstance(data, memoryview) else str(data)
