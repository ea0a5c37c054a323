"""Write the graphs of a bundle beside their weights, each of which lies in one file, once.

In comes a precision after the other, the one whose files have the plain names first. What is equal to
a weight that was written before, as bytes, is read from there, be it in another precision's file.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

ALIGNMENT = 4096  # a page, so that a runtime may map weights from the file
CLOSER = 64  # a cache line, for what is smaller than a page
SMALLEST = 1024  # bytes; what is smaller stays in its graph
PIECE = 1 << 24  # bytes that are hashed and written at once


class Weights:
    """The weights of a folder's graphs, as far as they are written.

    Args:
        folder: where graphs and weights lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[tuple[int, bytes], tuple[str, int]] = {}

    def save(self, graphs: Mapping[str, ir.Model], data: str) -> int:
        """Write graphs, and those of their large weights that are new into one file.

        The graphs' weights are read from the files from then on, so what held them may be freed.

        Args:
            graphs: each by the name of its file.
            data: the name of the weights' file; there is none if nothing is new.
        Returns:
            The bytes of the graphs and of all weights that they read, wherever those lie.
        """
        path = self._folder / data
        read: set[tuple[str, int, int]] = set()
        # What such a file held before is written over.
        self._places = {key: at for key, at in self._places.items() if at[0] != data}
        with open(path, "wb") as file:
            for graph in graphs.values():
                for value in graph.graph.initializers.values():
                    tensor = value.const_value
                    if tensor is None:
                        continue
                    if tensor.nbytes < SMALLEST:
                        # A copy: a view would keep all that it is cut from, such as a mapped file.
                        own = np.array(tensor.numpy())
                        value.const_value = ir.Tensor(own, dtype=tensor.dtype, name=value.name)
                        continue
                    name, offset = self._place(tensor, file, data)
                    read.add((name, offset, tensor.nbytes))
                    value.const_value = ir.ExternalTensor(
                        name,
                        offset,
                        tensor.nbytes,
                        tensor.dtype,
                        shape=ir.Shape(tuple(tensor.shape)),
                        name=value.name or "",
                        base_dir=self._folder,
                    )
        if not path.stat().st_size:
            path.unlink()
        for name, graph in graphs.items():
            ir.save(graph, self._folder / name)
        size: int = sum((self._folder / name).stat().st_size for name in graphs)
        return size + sum(length for _, _, length in read)

    def _place(self, tensor: ir.TensorProtocol, file: BinaryIO, data: str) -> tuple[str, int]:
        """Return the file and offset of a weight, which is written now if it is new."""
        array = np.ascontiguousarray(tensor.numpy() if _is_whole(tensor) else _packed(tensor))
        raw = array.reshape(-1).view(np.uint8).data
        key = (tensor.nbytes, hashlib.sha256(raw).digest())
        if key not in self._places:
            step = ALIGNMENT if tensor.nbytes >= ALIGNMENT else CLOSER
            file.seek(-(-file.tell() // step) * step)
            self._places[key] = (data, file.tell())
            for start in range(0, len(raw), PIECE):
                file.write(raw[start : start + PIECE])
        return self._places[key]


def save_together(graphs: Mapping[Path, ir.Model], data: str) -> None:
    """Write graphs beside each other, their large weights into one file; see `Weights.save`.

    Args:
        graphs: each with the file to write; all in one folder.
        data: the weights' file in that folder.
    """
    folder = next(iter(graphs)).parent
    Weights(folder).save({path.name: graph for path, graph in graphs.items()}, data)


def unmapped(tensor: ir.TensorProtocol | None) -> None:
    """Take what was read of a tensor's file out of memory; where it is asked for again it is read again.

    Arrays of it stay good. What a system cannot do, or what lies in no file, stays as it is.
    """
    mapped = getattr(tensor, "raw", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _is_whole(tensor: ir.TensorProtocol) -> bool:
    """Say whether each number of a tensor fills bytes of its own."""
    return int(tensor.dtype.bitwidth) >= 8


def _packed(tensor: ir.TensorProtocol) -> np.ndarray:
    """Return the bytes of a tensor whose numbers share them, uint8 [N]."""
    return np.frombuffer(tensor.tobytes(), np.uint8)
