"""Run a causal graph: ids in, logits out, keys and values kept in one buffer that never moves.

The graph's operator writes new keys and values into the buffer that it reads the old ones from, so
the same memory is bound as `past_key_values.*` and `present.*`. It is as long as the request needs:
the prompt and the most tokens that may follow.

A bundle may have a prefix, which is what a soft prompt became: keys and values that stand in every
buffer from the start, so that a prompt is read as what follows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lmkit.encoding import IGNORE, Encoded, Ids, texts_to_read
from lmkit.errors import BundleError
from lmkit.logits import Logits, LogProbs, log_probs_of, rows_at_once
from lmkit.manifest import Graph, Prefix
from lmkit.runtime.session import open_graph, stepped

CHUNK = 512  # tokens of a prompt that are run at once, which bounds the logits in memory


class CausalSession:
    """A loaded graph.

    Args:
        file: the ONNX file.
        graph: its description.
        providers: onnxruntime's execution providers; the CPU's if None.
        threads: how many threads one step may use; all cores of the process if None.
    Raises:
        BundleError: onnxruntime cannot load it, or its prefix is not what is written down.

    Attributes:
        prefix: the prefix's keys and values, float32 [layers, 2, KV, n, D]; n may be 0.
    """

    def __init__(
        self,
        file: Path,
        graph: Graph,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.onnx = open_graph(
            file, (*graph.inputs, *graph.outputs), providers=providers, threads=threads
        )
        self.graph = graph
        _check_sizes(file, graph)
        self.prefix = _read_prefix(file, graph)

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

    def begin(self, prompts: Sequence[Ids], limits: Sequence[int]) -> tuple[CausalState, Logits]:
        """Read prompts into fresh buffers, as long as each row may become; see `Session`."""
        capacity = max(len(row) + limit for row, limit in zip(prompts, limits, strict=True))
        state = CausalState(self, len(prompts), capacity)
        together = rows_at_once(max(map(len, prompts)) * self.vocab_size)
        if len(prompts) == 1 or len(prompts) > together or self.n_prefix:
            last = [state.read_in_chunks(prompt, row) for row, prompt in enumerate(prompts)]
            return state, np.concatenate(last)
        logits = state.read(prompts)
        ends = np.array([len(prompt) for prompt in prompts]) - 1
        return state, logits[np.arange(len(prompts)), ends]

    def forced(self, prompt: Ids, answer: Ids) -> Logits:
        """Return the logits that predict each token of an answer, and the one behind it."""
        whole = np.concatenate([prompt, answer])
        return CausalState(self, 1, len(whole)).read([whole])[0, len(prompt) - 1 :]

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
        texts, which = texts_to_read(rows)
        at_once = rows_at_once(len(texts[0]) * self.vocab_size)
        found: dict[int, LogProbs] = {}
        for start in range(0, len(texts), at_once):
            part = texts[start : start + at_once]
            logits = CausalState(self, len(part), len(part[0])).read(part)
            for index, row in enumerate(rows):
                if start <= which[index] < start + len(part):
                    at = np.flatnonzero(row.labels[1:] != IGNORE)
                    behind = logits[which[index] - start, at]
                    found[index] = log_probs_of(behind, row.labels[1:][at])
        return [found[index] for index in range(len(rows))]


class CausalState:
    """Rows that are being written: their keys and values, and the arrays of the next step.

    Args:
        session: the loaded graph.
        n_rows: how many rows.
        capacity: the most tokens in a row, its prompt included and the prefix not.
    """

    def __init__(self, session: CausalSession, n_rows: int, capacity: int) -> None:
        graph, n_prefix = session.graph, session.n_prefix
        capacity += n_prefix
        self._session = session
        self._capacity = capacity
        self._lengths = np.full(n_rows, n_prefix, dtype=np.int64)
        self._kept = {
            f"{layer}.{kind}": self._room_for(n_rows)
            for layer in range(graph.n_layers)
            for kind in ("key", "value")
        }
        parts = [part for layer in session.prefix for part in layer]
        for array, part in zip(self._kept.values(), parts, strict=True):
            array[:, :, :n_prefix] = part
        self._text = np.zeros((n_rows, capacity), dtype=np.int64)
        self._ids = np.zeros((n_rows, 1), dtype=np.int64)
        self._positions = np.zeros((n_rows, 1), dtype=np.int64)
        self._mask = np.zeros((n_rows, capacity), dtype=np.int64)
        self._mask[:, :n_prefix] = 1
        self._prepare()

    def _room_for(self, n_rows: int) -> Logits:
        graph = self._session.graph
        shape = (n_rows, graph.n_kv_heads, self._capacity, graph.head_size)
        return np.zeros(shape, dtype=np.float32)

    def _prepare(self) -> None:
        """Bind a step's arrays, which are written in place from then on."""
        self._buffers = _shared(self._kept)
        shape = (len(self._lengths), 1, self._session.graph.vocab_size)
        self._logits = np.zeros(shape, dtype=np.float32)
        self._step = self._bind(self._ids, self._mask, self._positions, self._logits)

    def read(self, rows: Sequence[Ids]) -> Logits:
        """Run whole rows, right-padded to the longest; return float32 [B, T, V]."""
        if self._session.n_prefix:
            return self._read_behind_prefix(rows)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        width = int(lengths.max())
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(rows)
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(width), mask.shape))
        logits = np.empty((*ids.shape, self._session.graph.vocab_size), dtype=np.float32)
        self._run(self._bind(ids, mask, positions, logits))
        self._text[:, :width] = ids
        for row, length in enumerate(lengths.tolist()):
            self._settle(row, length)
        return logits

    def read_in_chunks(self, prompt: Ids, row: int = 0) -> Logits:
        """Run one row, some tokens at a time, so that a long prompt's logits never lie in memory.

        Args:
            prompt: int64 [P].
            row: which row it is.
        Returns:
            The logits behind its last token, float32 [1, V].
        """
        for start in range(0, len(prompt), CHUNK):
            logits = self.extend(row, prompt[start : start + CHUNK])
        return logits[-1:]

    def _read_behind_prefix(self, rows: Sequence[Ids]) -> Logits:
        """Run whole rows one by one: with a past, the operator takes several new tokens of one only."""
        shape = (len(rows), max(map(len, rows)), self._session.graph.vocab_size)
        logits = np.zeros(shape, dtype=np.float32)
        for row, ids in enumerate(rows):
            logits[row, : len(ids)] = self.extend(row, ids)
        return logits

    def extend(self, row: int, ids: Ids) -> Logits:
        """Run some tokens behind what a row holds already, in one step of the model.

        Args:
            row: which row; the others stay as they are.
            ids: int64 [S], at least one, and no more than the row has room for.
        Returns:
            The logits behind each of them, float32 [S, V], the caller's own.
        Raises:
            ValueError: there are none, or no room for them.
        """
        start = int(self._lengths[row])
        end = start + len(ids)
        if not start < end <= self._capacity:
            raise ValueError(
                f"row {row} was to go on with {len(ids)} tokens; expected 1 to "
                f"{self._capacity - start}, the room that is left"
            )
        mask = np.ones((1, end), dtype=np.int64)
        positions = np.arange(start, end, dtype=np.int64)[None]
        shape = (len(ids), self._session.graph.vocab_size)
        logits: Logits = np.empty(shape, dtype=np.float32)
        # A row of a buffer is a buffer of one row: nothing is copied.
        alone = _shared({name: array[row : row + 1] for name, array in self._kept.items()})
        new = np.ascontiguousarray(ids[None])
        self._run(self._bind(new, mask, positions, logits[None], alone))
        self._text[row, start:end] = ids
        self._settle(row, end)
        return logits

    def length(self, row: int) -> int:
        """Return how many tokens a row holds, those of the prefix not counted."""
        return int(self._lengths[row]) - self._session.n_prefix

    def rewind(self, row: int, length: int) -> None:
        """Forget a row's tokens behind its first `length`, so that it can go on otherwise.

        Nothing is moved or cleared: what is behind a row's end is never looked at.

        Args:
            row: which row; the others stay as they are.
            length: how many tokens to keep, from 1 to `length(row)`, the prefix not counted.
        Raises:
            ValueError: the row does not hold so many.
        """
        if not 1 <= length <= self.length(row):
            raise ValueError(
                f"row {row} was to be cut to {length} tokens; expected 1 to {self.length(row)}, "
                "which is what it holds"
            )
        self._settle(row, length + self._session.n_prefix)

    def _settle(self, row: int, end: int) -> None:
        """Let a row end at a place, and a step that leaves it as it is write its last token again."""
        self._mask[row, :end] = 1
        self._mask[row, end:] = 0
        self._lengths[row] = end
        self._ids[row, 0] = self._text[row, end - 1]
        self._positions[row, 0] = end - 1

    def step(self, tokens: Sequence[int | None]) -> Logits:
        """Append one token to each row and return the logits behind it.

        Args:
            tokens: B ids; None for a row that is finished, which stays as it is.
        Returns:
            float32 [B, V], overwritten by the next step.
        """
        for row, token in enumerate(tokens):
            if token is not None:
                length = self._lengths[row]
                self._text[row, length] = self._ids[row, 0] = token
                self._positions[row, 0] = length
                self._mask[row, length] = 1
                self._lengths[row] = length + 1
        self._run(self._step)
        return self._logits[:, 0]

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by copies of some of them; only what is filled and moves is copied.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
        """
        n_rows, n_before = len(rows), len(self._lengths)
        filled = int(self._lengths.max())
        for name, old in self._kept.items():
            new = self._room_for(n_rows) if n_rows > n_before else old
            _copy_rows(old, new, rows, filled)
            self._kept[name] = new[:n_rows]
        order = np.array(rows, dtype=np.int64)
        self._lengths = self._lengths[order]
        if n_rows == n_before:
            for array in (self._text, self._ids, self._positions, self._mask):
                array[:] = array[order]
            return
        self._ids, self._positions = self._ids[order], self._positions[order]
        self._text, self._mask = self._text[order], self._mask[order]
        self._prepare()

    def _bind(
        self,
        ids: Ids,
        mask: Ids,
        positions: Ids,
        logits: Logits,
        buffers: Mapping[str, ort.OrtValue] | None = None,
    ) -> tuple[ort.IOBinding, list[np.ndarray]]:
        binding = self._session.onnx.io_binding()
        arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for name in self._session.graph.input_names:
            if name in arrays:
                binding.bind_cpu_input(name, arrays[name])
        for name, buffer in (self._buffers if buffers is None else buffers).items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        out = ort.OrtValue.ortvalue_from_numpy(logits)
        binding.bind_ortvalue_output("logits", out)
        # The binding holds addresses only: the arrays must live as long as it does.
        return binding, [ids, mask, positions, logits]

    def _run(self, bound: tuple[ort.IOBinding, list[np.ndarray]]) -> None:
        self._session.onnx.run_with_iobinding(bound[0])


def _copy_rows(old: Logits, new: Logits, rows: Sequence[int], filled: int) -> None:
    """Make each row of `new`, float32 [B, KV, T, D], a row of `old` up to `filled`; they may be one."""
    moves = {row: source for row, source in enumerate(rows) if new is not old or row != source}
    # In place, what is written over and needed elsewhere is read first.
    needed = set(moves.values()) & moves.keys() if new is old else set()
    held = {source: old[source, :, :filled].copy() for source in needed}
    for row, source in moves.items():
        new[row, :, :filled] = held.get(source, old[source, :, :filled])


def _shared(arrays: Mapping[str, np.ndarray]) -> dict[str, ort.OrtValue]:
    """Return arrays as onnxruntime's, in the same memory; the arrays must live as long."""
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}


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
