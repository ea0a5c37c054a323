"""Write a bundle's graphs in each precision; the first one's files have the plain names.

Float32 is always written, first, because the others are made from it and compared with it: where it is
not asked for, it is taken away in the end. Its weights are read from the file from then on, so the torch
model need not stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from lmkit.export.chaining import chained
from lmkit.export.external import Weights
from lmkit.export.ladder import RUNGS, Rung, kept_higher
from lmkit.export.quantizing import Store, quantize
from lmkit.precisions import DRAFT_FILE, FP32, Precision, file_of

DATA_FILE = "model.onnx.data"

Save = Callable[[Mapping[str, ir.Model]], None]
"""What a family calls with its fused float32 graphs, by the plain names of their files."""


class Writer:
    """The graphs of a bundle that is being made.

    Args:
        part: its folder.
        precisions: those that are asked for, the default one first.
    """

    def __init__(self, part: Path, precisions: Sequence[str]) -> None:
        self._part, self._default = part, precisions[0]
        self._weights = Weights(part)
        self._graphs: Mapping[str, ir.Model] = {}
        self._temporary = FP32 not in precisions

    def save_float32(self, graphs: Mapping[str, ir.Model]) -> None:
        """Write the graphs as they are."""
        weights = Weights(self._part) if self._temporary else self._weights
        self._graphs = graphs
        files = self._files(FP32)
        own = {files[plain]: graph for plain, graph in graphs.items()}
        self.float32 = Precision(files=files, size_bytes=weights.save(own, self._data(FP32)))

    def rungs(self, name: str) -> Sequence[Rung]:
        """Return the ways to store a precision, the smallest first."""
        return RUNGS[name]

    def save(self, name: str, rung: Rung) -> Precision:
        """Write a precision and return where it lies; nothing of it is measured yet.

        Args:
            name: the precision.
            rung: one of its `rungs`; what an earlier one wrote is written over.
        """
        if name == FP32:
            return self.float32
        files = self._files(name)
        store = Store()  # what two graphs share is rounded once
        own = {}
        for plain, graph in self._graphs.items():
            higher = kept_higher(rung, graph.graph)
            own[files[plain]] = quantize(
                graph, name, higher=higher, careful=rung.careful, store=store
            )
        size = self._weights.save(own, self._data(name))
        draft = chained(next(iter(own.values()))) if len(own) == 1 else None
        if draft is not None:  # it reads the weights that were just written
            files[DRAFT_FILE] = file_of(DRAFT_FILE, name, self._default)
            ir.save(draft, self._part / files[DRAFT_FILE])
            size += (self._part / files[DRAFT_FILE]).stat().st_size
        return Precision(files=files, size_bytes=size, plan=str(rung))

    def tidy(self) -> None:
        """Take away what was needed for comparison only."""
        if self._temporary:
            for name in (*self._files(FP32).values(), self._data(FP32)):
                (self._part / name).unlink(missing_ok=True)

    def _files(self, name: str) -> dict[str, str]:
        return {plain: file_of(plain, name, self._default) for plain in self._graphs}

    def _data(self, name: str) -> str:
        return file_of(DATA_FILE, name, self._default)
