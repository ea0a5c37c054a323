"""Run a masked graph: texts with mask tokens in, the logits of every token out."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from lmkit.answering.filling import Marks, MaskAnswerer
from lmkit.answering.logits import Logits
from lmkit.encoding import Ids
from lmkit.errors import BundleError
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.golden import difference
from lmkit.runtime.session import Providers, open_graph
from lmkit.saving.manifest import Golden, Manifest, MaskedGraph

MARKS = "logits_mask"  # the input that says whose logits are wanted; it may be left out


class MaskedSession:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: its description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one pass may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load it.

    Attributes:
        takes_marks: whether it computes the logits of marked tokens only; an older bundle does not.
    """

    def __init__(
        self,
        file: Path,
        graph: MaskedGraph,
        *,
        providers: Providers | None = None,
        threads: int | None = None,
    ) -> None:
        self.onnx = open_graph(
            file, (*graph.inputs, *graph.outputs), providers=providers, threads=threads
        )
        size = next((port.axes[-1] for port in graph.outputs if port.name == "logits"), None)
        if size != graph.vocab_size:
            raise BundleError(
                f"vocab_size is written down as {graph.vocab_size}, and '{file}' has {size}"
            )

        optional = {port.name for port in self.onnx.get_overridable_initializers()}
        self.takes_marks = MARKS in optional

    def read(self, input_ids: Ids, attention_mask: Ids, marks: Marks) -> Logits:
        """Return the logits of marked tokens, float32 [N, V], row after row.

        Args:
            input_ids: int64 [B, T], rows padded on the right.
            attention_mask: int64 [B, T].
            marks: bool [B, T].
        """
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        if not self.takes_marks:
            return np.asarray(self.onnx.run(["logits"], feeds)[0])[marks]
        asked = evened(marks)
        logits = np.asarray(self.onnx.run(["logits"], {**feeds, MARKS: asked})[0])
        logits = logits.reshape(-1, logits.shape[-1])
        return logits if asked is marks else logits[marks[asked]]


def evened(marks: Marks) -> Marks:
    """Return marks, bool [B, T], with further ones where a row has fewer than another, and not none.

    >>> evened(np.array([[True, False, True], [False, False, True]])).astype(int)
    array([[1, 0, 1],
           [1, 0, 1]])
    """
    counts = marks.sum(axis=1)
    most = max(1, int(counts.max()))
    if (counts == most).all():
        return marks
    # A stable sort puts a row's marked places first, and then its others from the left.
    order = np.argsort(~marks, axis=1, kind="stable")[:, :most]
    found = np.zeros_like(marks)
    np.put_along_axis(found, order, values=True, axis=1)
    return found


@attrs.frozen(kw_only=True, eq=False)
class MaskFiller(MaskAnswerer):
    """A bundle that fills masks. Calls from several threads do not disturb each other.

    Attributes:
        path: the bundle's folder.
        manifest: its `lmkit.json`.
    """

    path: Path
    manifest: Manifest = attrs.field(repr=False)

    def check_golden(self, golden: Golden, *, answer: bool) -> str | None:
        """Return how a golden prompt now comes out differently, or None if it does not."""
        fills = (lambda prompt, count: self.best([prompt])[0][:count]) if answer else None
        return difference(golden, self.task, self.tokenizer, self.manifest.created, fills)


def open_filler(
    bundle: Bundle, *, providers: Providers | None = None, threads: int | None = None
) -> MaskFiller:
    """Load a masked bundle's graph; nothing of it is checked."""
    manifest = bundle.manifest
    graph = manifest.graph
    assert isinstance(graph, MaskedGraph)
    session = MaskedSession(bundle.path / graph.file, graph, providers=providers, threads=threads)
    return MaskFiller(
        task=manifest.task,
        tokenizer=bundle.tokenizer,
        context_length=graph.context_length,
        vocab_size=graph.vocab_size,
        read=session.read,
        picks=session.takes_marks,
        path=bundle.path,
        manifest=manifest,
    )
