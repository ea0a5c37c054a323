"""Run a masked graph: texts with mask tokens in, the logits of every token out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from lmkit.encoding import Ids
from lmkit.errors import BundleError
from lmkit.filling import MaskAnswerer
from lmkit.logits import Logits
from lmkit.manifest import Golden, Manifest, MaskedGraph
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.golden import difference
from lmkit.runtime.session import open_graph


class MaskedSession:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: its description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one pass may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load it.
    """

    def __init__(
        self,
        file: Path,
        graph: MaskedGraph,
        *,
        providers: Sequence[str] | None = None,
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

    def read(self, input_ids: Ids, attention_mask: Ids) -> Logits:
        """Return the logits, float32 [B, T, V], of right-padded ids, int64 [B, T]."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        return np.asarray(self.onnx.run(["logits"], feeds)[0])


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
    bundle: Bundle, *, providers: Sequence[str] | None = None, threads: int | None = None
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
        path=bundle.path,
        manifest=manifest,
    )
