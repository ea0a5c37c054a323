"""Write a bundle's graphs in each precision; the first one's files have the plain names.

Float32 is always written, first, because the others are made from it and compared with it: where it is
not asked for, it is taken away in the end. Its weights are read from the file from then on, so the torch
model need not stay in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import onnx_ir as ir

from lmkit.encoding import Ids
from lmkit.export.chaining import chained
from lmkit.export.external import Weights, unmapped
from lmkit.export.ladder import RUNGS, Rung, kept_higher
from lmkit.export.quantizing import Store, quantize
from lmkit.export.quantizing.calibrating import second_moments
from lmkit.export.quantizing.feeding import LONGEST, feeds
from lmkit.export.quantizing.quantize import SMALLEST, Moments
from lmkit.export.quantizing.weights import weights
from lmkit.export.tracing import let_go
from lmkit.saving.precisions import DRAFT_FILE, FP32, INT4, Precision, file_of

DATA_FILE = "model.onnx.data"

Save = Callable[[Mapping[str, ir.Model]], None]
"""What a family calls with its fused float32 graphs, by the plain names of their files."""

NOTHING_ROUNDED = "no weight is large enough to be rounded, so it is float32"


class Writer:
    """The graphs of a bundle that is being made.

    Args:
        part: its folder.
        precisions: those that are asked for, the default one first.
    """

    def __init__(self, part: Path, precisions: Sequence[str]) -> None:
        self._part, self._default = part, precisions[0]
        self._weights = Weights(part)
        self._plain: tuple[str, ...] = ()
        self._temporary = FP32 not in precisions
        self._moments: dict[str, Moments] = {}
        self._graphs: dict[str, ir.Model] = {}
        self._measured: IO[bytes] | None = None  # holds them: they may be half the weights
        self._rounded_by = ""
        self._store, self._stored = Store(), ""

    def save_float32(self, graphs: Mapping[str, ir.Model]) -> None:
        """Write the graphs as they are; they are of no use afterwards."""
        weights = Weights(self._part) if self._temporary else self._weights
        self._plain = tuple(graphs)
        files = self._files(FP32)
        own = {files[plain]: graph for plain, graph in graphs.items()}
        self.float32 = Precision(files=files, size_bytes=weights.save(own, self._data(FP32)))
        for graph in graphs.values():
            let_go(graph)

    @property
    def has_large(self) -> bool:
        """Whether any weight is large enough to be rounded."""
        return any(
            weight.products and weight.array.size >= SMALLEST
            for graph in self._read().values()
            for weight in weights(graph.graph)
        )

    def measure(self, rows: Sequence[Ids], whose: str) -> None:
        """Measure what the float32 graphs' weights multiply, which 4-bit weights are rounded by.

        Args:
            rows: texts as a model reads them, int64 [T] each. A graph that reads more than texts, such as a
                decoder of an encoder's keys, is left out.
            whose: where they are from, in words.
        """
        self._measured = tempfile.TemporaryFile(dir=self._part)  # noqa: SIM115 - `tidy` closes it
        for plain, graph in self._read().items():
            own = second_moments(graph, feeds(graph.graph, rows), file=self._measured)
            if own:
                self._moments[plain] = own
                n_tokens = sum(min(len(row), LONGEST) for row in rows)
                self._rounded_by = (
                    f"rounded by what its weights multiply in {n_tokens:,} tokens of {whose}"
                )

    def rungs(self, name: str) -> Sequence[Rung]:
        """Return the ways to store a precision, the smallest first; none of them is another one."""
        found: dict[object, Rung] = {}
        graphs = self._read().values()
        for rung in RUNGS[name]:
            kept = tuple(kept_higher(rung, graph.graph) for graph in graphs)
            found.setdefault((kept, rung.careful), rung)
        return tuple(found.values())

    def save(self, name: str, rung: Rung) -> Precision:
        """Write a precision and return where it lies; nothing of it is measured yet.

        Args:
            name: the precision.
            rung: one of its `rungs`; what an earlier one wrote is written over.
        """
        if name == FP32:
            return self.float32
        files = self._files(name)
        if name != self._stored:
            # What two graphs share is rounded once, and so is what two rungs have in common.
            self._store, self._stored = Store(), name
        own = {}
        for plain, graph in self._read().items():
            own[files[plain]] = quantize(
                graph,
                name,
                higher=kept_higher(rung, graph.graph),
                careful=rung.careful,
                moments=self._moments.get(plain),
                store=self._store,
            )
        plan = str(rung) if any(map(_is_rounded, own.values())) else NOTHING_ROUNDED
        size = self._weights.save(own, self._data(name))
        for graph in self._read().values():
            for value in graph.graph.initializers.values():
                unmapped(value.const_value)
        draft = chained(next(iter(own.values()))) if len(own) == 1 else None
        if draft is not None:  # it reads the weights that were just written
            files[DRAFT_FILE] = file_of(DRAFT_FILE, name, self._default)
            ir.save(draft, self._part / files[DRAFT_FILE])
            size += (self._part / files[DRAFT_FILE]).stat().st_size
        by = self._rounded_by if name == INT4 else ""
        return Precision(files=files, size_bytes=size, plan=plan, rounded_by=by)

    def tidy(self) -> None:
        """Take away what was needed for comparison only, and give memory back."""
        self._store, self._stored = Store(), ""
        self._moments, self._graphs = {}, {}
        if self._measured is not None:
            self._measured.close()
        if self._temporary:
            for name in (*self._files(FP32).values(), self._data(FP32)):
                (self._part / name).unlink(missing_ok=True)

    def _read(self) -> dict[str, ir.Model]:
        """Read the float32 graphs from their files: the traced ones would lead to the torch model.

        What is read of their weights is taken out of memory where it is no longer needed.
        """
        if not self._graphs:
            files = self._files(FP32)
            self._graphs = {plain: ir.load(self._part / file) for plain, file in files.items()}
        return self._graphs

    def _files(self, name: str) -> dict[str, str]:
        return {plain: file_of(plain, name, self._default) for plain in self._plain}

    def _data(self, name: str) -> str:
        return file_of(DATA_FILE, name, self._default)


def _is_rounded(model: ir.Model) -> bool:
    """Say whether a graph has weights of 8 bits or fewer."""
    values = model.graph.initializers.values()
    kinds = {value.const_value.dtype for value in values if value.const_value is not None}
    return any(kind.bitwidth <= 8 for kind in kinds)
