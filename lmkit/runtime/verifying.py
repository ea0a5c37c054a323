"""Check drafts of a model whose products round what they multiply: by a graph made for that.

Such a model gives other logits for several tokens that are read at once than for one at a time, so its
drafts are read by a second graph, `lmkit.export.chaining`, which writes the same keys and values into
the same buffers, bit for bit. **Whether it does on this machine is seen** when it is loaded: tokens
are read both ways, and if a single bit differs there are no drafts.

onnxruntime packs a graph's weights into memory of its own. The second graph takes as much of it again as
the first, and as long to load. So it is loaded only once drafts that were not read would have saved
what it costs, and not at all where the weights are large.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import onnxruntime as ort

from lmkit.encoding import Ids
from lmkit.errors import BundleError, ModelError
from lmkit.runtime.session import Providers, open_graph
from lmkit.saving.manifest import Graph, Tensor
from lmkit.saving.precisions import DRAFT_TOKENS, draft_port

if TYPE_CHECKING:
    from lmkit.runtime.causal_state import CausalState

MOST_BYTES = 1 << 28  # of weights that are held a second time for drafts

# Steps that drafts would have saved: loading takes as long (SmolLM2-135M on one core, in steps: 110 in int4,
# 115 in int8).
_WORTH_LOADING = 120.0


class Verifier:
    """The graph that reads drafts, as soon as it is worth loading.

    Args:
        file: the ONNX file.
        graph: the description of the graph that takes steps.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.

    Attributes:
        is_exact: whether it reads what single steps read; None before that was seen.
        missed: how many steps drafts would have saved so far, had it been loaded.
        onnx: the loaded graph; None before, and where it is of no use.
        most: how many tokens it reads at once.
    """

    most = DRAFT_TOKENS

    def __init__(
        self,
        file: Path,
        graph: Graph,
        *,
        providers: Providers | None = None,
        threads: int | None = None,
    ) -> None:
        self.missed = 0.0
        self.onnx: ort.InferenceSession | None = None
        self.is_exact: bool | None = None
        self._file, self._graph = file, graph
        self._providers, self._threads = providers, threads
        self._lock = threading.Lock()

    @property
    def is_worth_loading(self) -> bool:
        """Whether to load it now."""
        return self.is_exact is None and self.missed >= _WORTH_LOADING

    def load(self, state: CausalState, ids: Ids) -> None:
        """Load the graph, and keep it if it reads what single steps read; one thread does.

        Args:
            state: its first row has room for `most` tokens; it stays as it is.
            ids: any tokens, int64 [most].
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self.is_exact is None:
                self.is_exact = False  # whatever happens now, it is not tried again
                onnx = self._open()
                if onnx is not None and state.reads_alike(onnx, ids):
                    self.onnx, self.is_exact = onnx, True
        except ModelError:  # one that loads and does not run: likewise
            return
        finally:
            self._lock.release()

    def _open(self) -> ort.InferenceSession | None:
        graph = self._graph
        try:
            return open_graph(
                self._file,
                (*graph.inputs, *graph.outputs, *_more(graph.outputs)),
                providers=self._providers,
                threads=self._threads,
            )
        except BundleError:  # an onnxruntime that cannot: the model writes all the same
            return None


def _more(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [
        attrs.evolve(tensor, name=draft_port(tensor.name, place))
        for tensor in outputs
        if tensor.name.startswith("present.")
        for place in range(DRAFT_TOKENS - 1)
    ]
