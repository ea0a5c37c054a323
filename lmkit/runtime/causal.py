"""Run a causal graph: ids in, logits out, keys and values kept in one buffer that never moves.

The graph's operator writes new keys and values into the buffer that it reads the old ones from, so
the same memory is bound as `past_key_values.*` and `present.*`. It is as long as the request needs:
the prompt and the most tokens that may follow.

A bundle may have a prefix, which is what a soft prompt became: keys and values that stand in every
buffer from the start, so that a prompt is read as what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lmkit.answering.logits import Logits, LogProbs, log_probs_of, rows_at_once
from lmkit.encoding import IGNORE, Encoded, Ids, texts_to_read
from lmkit.errors import BundleError
from lmkit.runtime.buffers import Pool
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.pace import Pace
from lmkit.runtime.prefixes import PREFIX_CACHE_BYTES, Prefixes
from lmkit.runtime.session import Providers, open_graph, stepped
from lmkit.runtime.verifying import Verifier
from lmkit.saving.manifest import Graph, Prefix

# What a graph may have as an initializer that a caller can override: how many of the last places get
# logits. It is 0 for those who do not know of it, and gives them all.
N_KEPT = "num_logits_to_keep"

SCORED_AT_ONCE = 256  # tokens, whose logits are held; more would be no faster


class CausalSession:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: its description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.
        prefix_cache_bytes: the most memory for what texts that were read leave to others that begin in
            the same way; 0 for none.
    Raises:
        BundleError: onnxruntime cannot load it, or its prefix is not what is written down.

    Attributes:
        pace: what its steps cost, and what drafts may.
        verifier: what reads drafts where the graph itself cannot, or None.
        pool: where the memory of keys and values comes from, and goes back to.
        prefixes: texts that were read before.
        prefix: the prefix's keys and values, float32 [layers, 2, KV, n, D]; n may be 0.
    """

    def __init__(
        self,
        file: Path,
        graph: Graph,
        *,
        providers: Providers | None = None,
        threads: int | None = None,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
    ) -> None:
        self.onnx = open_graph(
            file, (*graph.inputs, *graph.outputs), providers=providers, threads=threads
        )
        self.graph = graph
        _check_sizes(file, graph)
        self.prefix = _read_prefix(file, graph)
        self.pool = Pool()
        self.pace = Pace()
        self.verifier: Verifier | None = None
        if graph.draft is not None:
            self.verifier = Verifier(
                file.parent / graph.draft, graph, providers=providers, threads=threads
            )
        self.prefixes = Prefixes(prefix_cache_bytes)
        optional = {port.name: port.shape for port in self.onnx.get_overridable_initializers()}
        self._n_kept_shape: Sequence[int] | None = optional.get(N_KEPT)

    @property
    def vocab_size(self) -> int:
        """The numbers in a row of logits."""
        return self.graph.vocab_size

    @property
    def n_prefix(self) -> int:
        """The places that the prefix takes in every row."""
        return int(self.prefix.shape[3])

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens that can follow a prompt, or None."""
        most = self.graph.context_length
        return None if most is None else most - len(prompt)

    def history(self, prompt: Ids) -> Ids:
        """Return the prompt: an answer continues it."""
        return prompt

    def row_size(self, n_prompt: int, limit: int) -> int:
        """Return how many numbers are kept while a row is written; see `Session`."""
        return (self.n_prefix + n_prompt + limit) * self._floats_per_token

    def begin(self, prompts: Sequence[Ids], limits: Sequence[int]) -> tuple[CausalState, Logits]:
        """Read prompts into fresh buffers, as long as each row may become; see `Session`."""
        capacity = max(len(row) + limit for row, limit in zip(prompts, limits, strict=True))
        state = CausalState(self, len(prompts), capacity)
        try:
            return state, state.read_last(prompts)
        except BaseException:
            state.close()
            raise

    @property
    def keeps_last(self) -> bool:
        """Whether the graph can leave out the logits of all but the last few places."""
        return self._n_kept_shape is not None

    def keep_last(self, binding: ort.IOBinding, count: int) -> None:
        """Ask for the logits of the last so many places only; the graph must be able to."""
        shape = list(self._n_kept_shape or ())
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.int64)
        value.update_inplace(np.full(shape, count, dtype=np.int64))
        binding.bind_ortvalue_input(N_KEPT, value)

    def forced(self, prompt: Ids, answer: Ids) -> Logits:
        """Return the logits that predict each token of an answer, and the one behind it."""
        whole = np.concatenate([prompt, answer])
        state = CausalState(self, 1, len(whole))
        try:
            wanted = len(answer) + 1
            # A view would keep what room there was for the others.
            return state.extend(0, whole, last=wanted)[-wanted:].copy()
        finally:
            state.close()

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row.

        Rows that share a prompt and are short behind it, as labels are, step on from it when it has
        been read once; others are read whole, together.
        """
        ends = [max(1, int(np.argmax(row.labels != IGNORE))) for row in rows]  # of the prompts
        once = {row.input_ids[:end].tobytes(): end for row, end in zip(rows, ends, strict=True)}
        n_again = sum(ends) - sum(once.values())
        n_steps = max(len(row) - end for row, end in zip(rows, ends, strict=True)) - 1
        if not 0 < n_steps * len(rows) < n_again:
            return self._read_whole(rows)
        found: list[LogProbs] = []
        at_once = rows_at_once(max(map(len, rows)) * self._floats_per_token)
        for start in range(0, len(rows), at_once):
            part, at = rows[start : start + at_once], ends[start : start + at_once]
            prompts = [row.input_ids[:end] for row, end in zip(part, at, strict=True)]
            behind = [row.input_ids[end:] for row, end in zip(part, at, strict=True)]
            for row, end, scores in zip(part, at, stepped(self, prompts, behind), strict=True):
                found.append(scores[row.labels[end:] != IGNORE])
        return found

    @property
    def _floats_per_token(self) -> int:
        """The numbers that are kept of a token: a key and a value in every layer."""
        return 2 * self.graph.n_layers * self.graph.n_kv_heads * self.graph.head_size

    def _read_whole(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Read the rows' texts one after another, some tokens at a time, in the same buffers.

        Logits are computed behind the first token that predicts a learned one, and not before.
        """
        texts, which = texts_to_read(rows)
        found: list[list[LogProbs]] = [[] for _ in rows]
        state = CausalState(self, 1, max(map(len, texts)))
        try:
            for place, text in enumerate(texts):
                own = [index for index in range(len(rows)) if which[index] == place]
                at = {index: np.flatnonzero(rows[index].labels[1:] != IGNORE) for index in own}
                first = min((places[0] for places in at.values() if len(places)), default=len(text))
                state.restart(0)
                for start in range(0, len(text), SCORED_AT_ONCE):
                    part = text[start : start + SCORED_AT_ONCE]
                    end = start + len(part)
                    logits = state.extend(0, part, last=max(1, end - max(start, int(first))))
                    for index, places in at.items():
                        inside = places[(places >= start) & (places < end)]
                        behind = logits[inside - end]  # counted from the last
                        found[index].append(log_probs_of(behind, rows[index].labels[1:][inside]))
        finally:
            state.close()
        return [np.concatenate(scores) for scores in found]


def _read_prefix(file: Path, graph: Graph) -> np.ndarray:
    """Return what every row starts with, float32 [layers, 2, KV, n, D]; n is 0 where nothing is."""
    prefix = graph.prefix or Prefix(file="", n_tokens=0)
    shape = (graph.n_layers, 2, graph.n_kv_heads, prefix.n_tokens, graph.head_size)
    if graph.prefix is None:
        return np.zeros(shape, np.float32)
    path = file.parent / prefix.file
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"the prefix '{path}' cannot be read: {error}") from error
    if prefix.n_tokens < 1 or found.shape != shape or found.dtype != np.float32:
        raise BundleError(
            f"the prefix '{path}' is {found.dtype} {list(found.shape)}; written down is float32 "
            f"{list(shape)}"
        )
    return np.ascontiguousarray(found)


def _check_sizes(file: Path, graph: Graph) -> None:
    """Refuse sizes that contradict the ports, before a buffer is made of them."""
    axes = {tensor.name: tensor.axes for tensor in (*graph.inputs, *graph.outputs)}
    layers = {name for name in axes if name.startswith("past_key_values.")}
    kept = next((axes[name] for name in sorted(layers)), (None,) * 4)
    facts = {
        "n_layers": len(layers) / 2,
        "n_kv_heads": kept[1],
        "head_size": kept[3],
        "vocab_size": axes.get("logits", (None,))[-1],
    }
    for name, fact in facts.items():
        if getattr(graph, name) != fact:
            raise BundleError(
                f"{name} is written down as {getattr(graph, name)}, and '{file}' has {fact}"
            )
