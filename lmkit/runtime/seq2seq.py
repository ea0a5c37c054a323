"""Run an encoder-decoder's two graphs: a source is read once, and a target written token by token.

The encoder leaves the decoder's keys and values of every source, which no step changes. The decoder's
own are kept in one buffer that never moves, as long as the request needs, bound as `past_key_values.*`
and `present.*` alike. All rows start together, so one number says how far they are. Rows that leave make
the step smaller: those that stay move together, in the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lmkit.answering.logits import Logits, LogProbs
from lmkit.collating import padded
from lmkit.encoding import IGNORE, Encoded, Ids
from lmkit.errors import BundleError
from lmkit.runtime.buffers import Pool
from lmkit.runtime.keyvalues import KeyValues, bind
from lmkit.runtime.session import Providers, open_graph, run, stepped
from lmkit.saving.manifest import Ports, Seq2SeqGraph


class Seq2SeqSession:
    """Both graphs, loaded.

    Args:
        folder: the bundle.
        graph: the graphs' description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load one of them.

    Attributes:
        pool: where the memory of keys and values comes from, and goes back to.
    """

    def __init__(
        self,
        folder: Path,
        graph: Seq2SeqGraph,
        *,
        providers: Providers | None = None,
        threads: int | None = None,
    ) -> None:
        def load(ports: Ports) -> ort.InferenceSession:
            both = (*ports.inputs, *ports.outputs)
            return open_graph(folder / ports.file, both, providers=providers, threads=threads)

        self.encoder = load(graph.encoder)
        self.decoder = load(graph.decoder)
        self.graph = graph
        self.pool = Pool()
        _check_sizes(folder, graph)

    @property
    def vocab_size(self) -> int:
        """The numbers in a row of logits."""
        return self.graph.vocab_size

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens of a target, or None; a source takes none of it."""
        return self.graph.target_length

    def history(self, prompt: Ids) -> Ids:
        """Return the token that every target starts with: an answer does not continue its source."""
        return np.array([self.graph.start_id], dtype=np.int64)

    def row_size(self, n_prompt: int, limit: int) -> int:
        """Return how many numbers are kept while a row is written; see `Session`."""
        return (
            (n_prompt + limit) * 2 * self.graph.n_layers * self.graph.n_heads * self.graph.head_size
        )

    def begin(self, prompts: Sequence[Ids], limits: Sequence[int]) -> tuple[Seq2SeqState, Logits]:
        """Read sources, and give the decoder its start token; see `Session`."""
        state = Seq2SeqState(self, self.read(prompts), max(limits))
        try:
            return state, state.step([self.graph.start_id] * len(prompts))
        except BaseException:
            state.close()
            raise

    def forced(self, prompt: Ids, answer: Ids) -> Logits:
        """Return the logits that predict each token of an answer, and the one behind it."""
        state, logits = self.begin([prompt], [len(answer) + 1])
        found = [logits[0].copy()]
        for token in answer.tolist():
            found.append(state.step([token])[0].copy())
        return np.stack(found)

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""
        targets = [row.labels[row.labels != IGNORE] for row in rows]
        return stepped(self, [row.input_ids for row in rows], targets)

    def read(self, sources: Sequence[Ids]) -> Read:
        """Run the encoder over G sources, right-padded to the longest."""
        graph = self.graph
        ids, mask = padded(sources, 0)
        shape = (len(sources), graph.n_heads, ids.shape[1], graph.head_size)
        kept = KeyValues(self.pool, graph.n_layers, shape)
        binding = self.encoder.io_binding()
        arrays = {"input_ids": ids, "attention_mask": mask}
        for name in graph.encoder.input_names:
            binding.bind_cpu_input(name, arrays[name])
        for name, value in kept.rows(0, len(sources)).items():
            binding.bind_ortvalue_output(f"cross_key_values.{name}", value)
        run(self.encoder, binding)
        return Read(mask, kept)


class Read:
    """What the decoder needs of G sources.

    Args:
        mask: int64 [G, S], ones where a source has a token.
        kept: keys and values of every layer, each float32 [G, H, S, D].
    """

    def __init__(self, mask: Ids, kept: KeyValues) -> None:
        self.mask = mask
        self.kept = kept

    def __len__(self) -> int:
        return len(self.mask)

    def take(self, sources: Sequence[int]) -> bool:
        """Keep some of the sources, in a given order, and say whether that changed anything.

        Those that stay where they are are not copied, and their memory stays the same.
        """
        if list(sources) == list(range(len(self))):
            return False
        self.kept.reorder(sources, self.mask.shape[1])
        self.mask = self.mask[list(sources)]
        return True


class Seq2SeqState:
    """Rows that are being written.

    Each source has as many rows as any other, next to each other, and they share its keys and values.

    Args:
        session: both graphs.
        read: the sources, which are this state's from then on.
        capacity: the most tokens of a row, the start token included.
    """

    def __init__(self, session: Seq2SeqSession, read: Read, capacity: int) -> None:
        graph = session.graph
        self._session = session
        self._read = read
        self._sources = list(range(len(read)))  # of each row
        # The operator takes a buffer of one for a prompt.
        shape = (len(read), graph.n_heads, max(2, capacity), graph.head_size)
        self._kept = KeyValues(session.pool, graph.n_layers, shape)
        self._ids = np.zeros((len(read), 1), dtype=np.int64)
        self._position = np.zeros(1, dtype=np.int64)
        self._binding: ort.IOBinding | None = None
        self._bind()

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append one token to each row and return the logits behind it.

        Args:
            tokens: B ids; None for a row that is finished, whose logits mean nothing then.
        Returns:
            float32 [B, V], overwritten by the next step.
        """
        for row, token in enumerate(tokens):
            if token is not None:
                self._ids[row, 0] = token
        run(self._session.decoder, self._binding)
        self._position += 1
        return self._last

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by copies of some of them; what is read of a source is not copied for it.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
        """
        filled = int(self._position[0])
        sources = [self._sources[row] for row in rows]
        groups = [(source, len(list(same))) for source, same in groupby(sources)]
        shared = len({count for _, count in groups}) == 1
        wanted = [source for source, _ in groups] if shared else sources
        self._kept.reorder(rows, filled)
        order = np.array(rows, dtype=np.int64)
        if not self._read.take(wanted) and len(rows) == len(self._ids):
            self._ids[:] = self._ids[order]
            return
        self._ids = self._ids[order]
        per_source = len(rows) // len(self._read)
        self._sources = [row // per_source for row in range(len(rows))]
        self._bind()

    def renew(self, row: int, prompt: Ids, limit: int) -> None:
        """Return None: rows begin together."""

    def close(self) -> None:
        """Hand the buffers back; nothing can be written from then on."""
        self._binding = None  # it holds their addresses
        self._kept.close()
        self._read.kept.close()

    def _bind(self) -> None:
        """Bind a step's arrays, which are written in place from then on.

        The binding holds addresses only; all arrays live in this state.
        """
        graph, n_rows = self._session.graph, len(self._ids)
        self._logits = np.empty((n_rows, 1, graph.vocab_size), dtype=np.float32)
        self._last = self._logits[:, 0]
        binding = self._session.decoder.io_binding()
        arrays = {
            "input_ids": self._ids,
            "encoder_attention_mask": self._read.mask,
            "position": self._position,
        }
        for name, array in arrays.items():
            if name in graph.decoder.input_names:
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, value in self._read.kept.rows(0, len(self._read)).items():
            if f"cross_key_values.{name}" in graph.decoder.input_names:
                binding.bind_ortvalue_input(f"cross_key_values.{name}", value)
        bind(binding, self._kept.rows(0, n_rows))
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(self._logits))
        self._binding = binding


def _check_sizes(folder: Path, graph: Seq2SeqGraph) -> None:
    """Refuse sizes that contradict the ports, before a buffer is made of them."""
    ports = graph.decoder
    axes = {tensor.name: tensor.axes for tensor in (*ports.inputs, *ports.outputs)}
    layers = [name for name in axes if name.startswith("past_key_values.")]
    kept = next((axes[name] for name in sorted(layers)), (None,) * 4)
    facts = {
        "n_layers": len(layers) / 2,
        "n_heads": kept[1],
        "head_size": kept[3],
        "vocab_size": axes.get("logits", (None,))[-1],
    }
    for name, fact in facts.items():
        if getattr(graph, name) != fact:
            raise BundleError(
                f"{name} is written down as {getattr(graph, name)}, and "
                f"'{folder / ports.file}' has {fact}"
            )
