"""The keys and values of rows that are being written: each layer's buffers, which never move in a request."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnxruntime as ort

from lmkit.answering.logits import Logits
from lmkit.runtime.buffers import Pool

PARTS = ("key", "value")

Shape: TypeAlias = tuple[int, int, int, int]


class Buffers:
    """Every layer's keys and values, each float32 [B, KV, T, D].

    Attributes:
        arrays: the keys and the values of each layer, by name; empty behind `close`.
    """

    arrays: dict[str, Logits]

    def put(self, prefix: np.ndarray) -> None:
        """Begin every row with a prefix, float32 [layers, 2, KV, n, D]."""
        parts = [part for layer in prefix for part in layer]
        for array, part in zip(self.arrays.values(), parts, strict=True):
            array[:, :, : part.shape[1]] = part

    def rows(self, start: int, stop: int) -> dict[str, ort.OrtValue]:
        """Return some rows as onnxruntime's, in the same memory: rows of a buffer are a buffer."""
        if not self.arrays:
            raise RuntimeError("rows were asked for after close()")
        return {
            name: ort.OrtValue.ortvalue_from_numpy(array[start:stop])
            for name, array in self.arrays.items()
        }

    def close(self) -> None:
        """Hand the memory back."""
        self.arrays = {}


class KeyValues(Buffers):
    """Keys and values whose rows can be replaced by copies of others, at first with anything in them.

    They are one block of memory, cut into buffers.

    Args:
        pool: where the memory comes from, and goes back to.
        n_layers: how many layers.
        shape: B, KV, T and D.
    """

    def __init__(self, pool: Pool, n_layers: int, shape: Shape) -> None:
        self._pool = pool
        self._names = _names(n_layers)
        self._lease = pool.take(len(self._names) * math.prod(shape), self)
        self.arrays = self._cut(shape)

    def _cut(self, shape: tuple[int, ...]) -> dict[str, Logits]:
        parts = self._lease.floats.reshape(len(self._names), *shape)
        return dict(zip(self._names, parts, strict=True))

    def reorder(self, rows: Sequence[int], filled: int) -> None:
        """Replace the rows by copies of some of them; only what is filled and moves is copied.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
            filled: how many places are filled in the longest.
        """
        before, lease = self.arrays, self._lease
        n_before, *each = next(iter(before.values())).shape
        if len(rows) > n_before:
            shape = (len(rows), *each)
            self._lease = self._pool.take(len(self._names) * math.prod(shape), self)
            self.arrays = self._cut(shape)
        else:
            self.arrays = {name: array[: len(rows)] for name, array in before.items()}
        for name, array in self.arrays.items():
            _copy_rows(before[name], array, rows, filled, in_place=self._lease is lease)
        if self._lease is not lease:
            lease.release()

    def close(self) -> None:
        """Hand the memory back."""
        super().close()
        self._lease.release()


class Growing(Buffers):
    """Keys and values that rows and places can be added to.

    Each buffer is memory of its own, so that a change of size holds only one of them twice. Of that,
    the system gives what is written to and no more, and gets it back with the buffer.

    Args:
        n_layers: how many layers.
        shape: B, KV, T and D.
    """

    def __init__(self, n_layers: int, shape: Shape) -> None:
        self._names = _names(n_layers)
        self.arrays = {name: untouched(shape) for name in self._names}

    def resize(self, n_rows: int, capacity: int, filled: int) -> None:
        """Make room for other rows and places; what is filled stays.

        Args:
            n_rows: how many rows; of fewer than there are, the first ones stay.
            capacity: how many places each has.
            filled: how many of them are filled in the longest row.
        """
        for name in self._names:
            old = self.arrays.pop(name)
            new = untouched((n_rows, old.shape[1], capacity, old.shape[3]))
            both = min(n_rows, len(old))
            new[:both, :, :filled] = old[:both, :, :filled]
            self.arrays[name] = new


def untouched(shape: Shape) -> Logits:
    """Return zeros, float32 of a shape, that take no memory until they are written to."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if sys.platform != "win32" else {}
    pages = mmap.mmap(-1, 4 * math.prod(shape), **private)
    return np.frombuffer(pages, dtype=np.float32).reshape(shape)


def _names(n_layers: int) -> list[str]:
    return [f"{layer}.{part}" for layer in range(n_layers) for part in PARTS]


def bind(binding: ort.IOBinding, buffers: Mapping[str, ort.OrtValue]) -> None:
    """Bind buffers as what is read and what is written: nothing is copied as they fill."""
    for name, buffer in buffers.items():
        binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
        binding.bind_ortvalue_output(f"present.{name}", buffer)


def _copy_rows(
    old: Logits, new: Logits, rows: Sequence[int], filled: int, *, in_place: bool
) -> None:
    """Make each row of `new`, float32 [B, KV, T, D], a row of `old` up to `filled`."""
    moves = {row: source for row, source in enumerate(rows) if not in_place or row != source}
    # In place, what is written over and needed elsewhere is read first.
    needed = set(moves.values()) & moves.keys() if in_place else set()
    held = {source: old[source, :, :filled].copy() for source in needed}
    for row, source in moves.items():
        new[row, :, :filled] = held.get(source, old[source, :, :filled])
