"""What a model's products multiply, measured on a few inputs: the second moments of their rows.

Rounding a weight W [out, in] to V changes a product by (W - V) x. Over inputs x its mean square is
tr((W - V) H (W - V)^T) with H = E[x x^T]; with H a rounding can be chosen for what the model computes and not
for the weights alone (Frantar et al. 2022, "GPTQ", arXiv:2210.17323, equation 1).

The graph runs in pieces, each over all inputs before the next one, so that neither its weights nor what is
measured has to be in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from attrs import define, field

from lmkit.export.external import unmapped
from lmkit.export.quantizing.pieces import Piece, pieces, size_of
from lmkit.export.quantizing.weights import weights

SPAN = 1024  # inputs of a product that are measured against each other
_TOGETHER = 1024  # rows that are multiplied with each other at once

Spans = tuple[np.ndarray, ...]


def second_moments(
    model: ir.Model,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    file: IO[bytes] | None = None,
) -> Mapping[str, Spans]:
    """Return for each weight the mean of x x^T over all x that its products multiply.

    Args:
        model: a fused graph in float32; it stays as it is.
        feeds: inputs of the graph by name, a step each. Rows of padding would be measured, too.
        file: an open file that takes what is measured and must stay open; None to keep it in memory.
    Returns:
        by the weight's name, float32 [span, span] for each span of at most `SPAN` inputs, which are measured
        against those of their own span alone, so that wide products take little memory. Weights that read
        the same inputs share the arrays. Out of a file they are read anew each time.
    """
    probed = model.clone()
    sums: dict[tuple[str, ...], _Sum] = {}
    of: dict[str, tuple[str, ...]] = {}  # by the weight's name
    values: dict[str, ir.Value] = {}
    for weight in weights(probed.graph):
        sources = [node.inputs[0] for node in weight.products]
        named = {
            str(value.name): value
            for value in sources
            if value is not None and not value.is_graph_input()
        }
        values |= named
        if named:
            of[weight.name] = names = tuple(sorted(named))
            sums.setdefault(names, _Sum(set(names)))
    steps = [dict(feed) for feed in feeds]
    if not steps or not values:
        return {}
    kept = _Kept(of, file)
    for piece, run in _running(probed, pieces(probed.graph, [*values.values()]), steps):
        for found in run:
            for name in [str(value.name) for value in piece.wanted]:
                rows = found[name].reshape(-1, found[name].shape[-1])
                for own in (one for names, one in sums.items() if name in names):
                    own.add(rows)
        for value in piece.wanted:
            for names, own in sums.items():
                own.missing.discard(str(value.name))
                if not own.missing and names not in kept.places:
                    kept.keep(names, own.means())
    return kept


@define(eq=False)
class _Sum:
    """The sum of x x^T over rows, which are gathered first: few large products are faster than many.

    Attributes:
        missing: the names of values whose rows are not all here.
    """

    missing: set[str]
    _rows: list[np.ndarray] = field(factory=list, init=False)
    _sums: list[np.ndarray] = field(factory=list, init=False)
    _count: int = field(default=0, init=False)

    def add(self, rows: np.ndarray) -> None:
        self._rows.append(rows)
        if sum(map(len, self._rows)) >= _TOGETHER:
            self._multiply()

    def means(self) -> Spans:
        """Return the sums divided by how many rows there were; nothing is left here."""
        self._multiply()
        for own in self._sums:
            own /= np.float32(max(1, self._count))
        found, self._sums = tuple(self._sums), []
        return found

    def _multiply(self) -> None:
        if not self._rows:
            return
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)
        self._rows = []
        self._count += len(rows)
        cut = [rows[:, start : start + SPAN] for start in range(0, rows.shape[1], SPAN)]
        if not self._sums:
            self._sums = [part.T @ part for part in cut]
            return
        for own, part in zip(self._sums, cut, strict=True):
            own += part.T @ part


class _Kept(Mapping[str, Spans]):
    """What was measured, by weight: in memory, or in a file out of which it is read when asked for."""

    def __init__(self, of: Mapping[str, tuple[str, ...]], file: IO[bytes] | None) -> None:
        self._of, self._file = of, file
        self._arrays: dict[tuple[str, ...], Spans] = {}
        self.places: dict[tuple[str, ...], tuple[int, tuple[int, ...]]] = {}

    def keep(self, names: tuple[str, ...], spans: Spans) -> None:
        """Take what was measured in some values."""
        offset = 0
        if self._file is None:
            self._arrays[names] = spans
        else:
            offset = self._file.seek(0, 2)
            for span in spans:
                self._file.write(np.ascontiguousarray(span).data)
        self.places[names] = offset, tuple(map(len, spans))

    def __getitem__(self, name: str) -> Spans:
        names = self._of[name]
        if self._file is None:
            return self._arrays[names]
        offset, widths = self.places[names]
        self._file.seek(offset)
        return tuple(
            np.frombuffer(self._file.read(4 * width * width), np.float32).reshape(width, width)
            for width in widths
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def _running(
    model: ir.Model, cut: Sequence[Piece], steps: list[dict[str, np.ndarray]]
) -> Iterator[tuple[Piece, Iterator[Mapping[str, np.ndarray]]]]:
    """Yield each piece with what is wanted of it at every step, which has to be asked for in turn.

    Args:
        model: the whole graph; its large constants are taken out of it.
        cut: its pieces.
        steps: what the graph is given; what pieces hand on is put in, and what no other needs taken out.
    """
    large: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and size_of(value):
            large[name] = tensor
    # The pieces are kept by their values, whose constants are no longer asked for.
    for name, tensor in large.items():
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            "memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape), name=name
        )
    whole = ir.to_proto(model)
    protos = dict(zip(model.graph, whole.graph.node, strict=True))
    given = set(steps[0])

    def ran(piece: Piece) -> Iterator[Mapping[str, np.ndarray]]:
        wanted = [str(value.name) for value in piece.wanted]
        handed_on = [str(value.name) for value in piece.handed_on if value not in piece.wanted]
        part = _part(whole, [protos[node] for node in piece.nodes], piece, steps[0])
        session = _session(part, large)
        asked = [str(value.name) for value in piece.inputs]
        for step in steps:
            names = [*wanted, *handed_on]
            found = dict(zip(names, session.run(names, {n: step[n] for n in asked}), strict=True))
            yield found
            step.update(found)
            for name in [n for n in step if n not in given and n not in piece.needed]:
                del step[name]

    for piece in cut:
        yield piece, ran(piece)
        for tensor in large.values():
            unmapped(tensor)


def _part(
    whole: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    piece: Piece,
    step: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    """Return a piece as a graph of its own."""
    part = onnx.ModelProto()
    part.CopyFrom(whole)
    graph = part.graph
    read = {name for node in nodes for name in node.input}
    everything = len(nodes) == len(whole.graph.node)  # subgraphs may read what no node names
    constants = [one for one in whole.graph.initializer if everything or one.name in read]
    for own in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        del own[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    for value in piece.inputs:
        array = step[str(value.name)]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(
            onnx.helper.make_tensor_value_info(value.name, kind, [None] * array.ndim)
        )
    graph.output.extend(
        onnx.ValueInfoProto(name=value.name)
        for value in dict.fromkeys([*piece.wanted, *piece.handed_on])
    )
    return part


def _session(part: onnx.ModelProto, large: Mapping[str, ir.TensorProtocol]) -> ort.InferenceSession:
    """Open a graph whose weights stay where they are in memory."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Its threads must not spin while numpy adds up what it found.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Packed copies of the weights would take as much memory again, for a few runs.
    options.add_session_config_entry("session.disable_prepacking", "1")
    names = [one.name for one in part.graph.initializer if one.name in large]
    values = [
        ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(large[name].numpy()))
        for name in names
    ]
    options.enable_cpu_mem_arena = False  # it would hold what the largest run has needed
    options.add_external_initializers(names, values)
    return ort.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
