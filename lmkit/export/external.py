"""Write several graphs whose weights lie in one file, each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

ALIGNMENT = 4096  # a page, so that a runtime may map weights from the file
SMALLEST = 1024  # bytes; what is smaller stays in its graph


def save_together(graphs: Mapping[Path, ir.Model], data: str) -> None:
    """Write graphs beside each other, their large weights into one file.

    Two weights are one if they are the same memory read in the same way, as tied weights are; the same
    bytes may have two shapes, as a quantised embedding has that is also the last product's.

    Args:
        graphs: each with the file to write; all in one folder.
        data: the weights' file in that folder.
    """
    folder = next(iter(graphs)).parent
    # Views of the tensors, kept until the end so that no address is used twice.
    held: list[np.ndarray] = []
    places: dict[tuple[object, ...], tuple[int, int]] = {}
    with open(folder / data, "wb") as file:
        for graph in graphs.values():
            for value in graph.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST:
                    continue
                array = tensor.numpy()
                held.append(array)
                key = _memory(array)
                if key not in places:
                    file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                    places[key] = (file.tell(), array.nbytes)
                    file.write(np.ascontiguousarray(array).data)
                offset, length = places[key]
                value.const_value = ir.ExternalTensor(
                    data,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(array.shape),
                    name=value.name or "",
                    base_dir=folder,
                )
    for path, graph in graphs.items():
        ir.save(graph, path)


def _memory(array: np.ndarray) -> tuple[object, ...]:
    """Return what is equal for two arrays that are the same bytes in the same order."""
    place = array.__array_interface__["data"][0]
    if array.flags.c_contiguous:
        return (place, array.nbytes)
    return (place, array.shape, array.strides, array.dtype)
