"""Rows of text in buffers that never move, and what one pass of a causal graph does with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from lmkit.answering.logits import Logits
from lmkit.encoding import Ids
from lmkit.runtime.keyvalues import Growing, KeyValues, bind
from lmkit.runtime.session import run
from lmkit.saving.precisions import DRAFT_TOKENS, draft_port

if TYPE_CHECKING:
    from lmkit.runtime.causal import CausalSession


class CausalRows:
    """Rows of any lengths. Every array is bound once and written in place from then on.

    Args:
        session: the loaded graph.
        n_rows: how many rows.
        capacity: the most tokens in a row, its prompt included and the prefix not.
        grows: whether rows and places may be added by `resize`; if so, rows are not reordered.
    """

    def __init__(
        self, session: CausalSession, n_rows: int, capacity: int, *, grows: bool = False
    ) -> None:
        graph, n_prefix = session.graph, session.n_prefix
        capacity += n_prefix
        shape = (n_rows, graph.n_kv_heads, capacity, graph.head_size)
        self._session = session
        self._capacity = capacity
        self._kept: Growing | KeyValues
        if grows:
            self._kept = Growing(graph.n_layers, shape)
        else:
            self._kept = KeyValues(session.pool, graph.n_layers, shape)
        self._kept.put(session.prefix)
        self._lengths = np.full(n_rows, n_prefix, dtype=np.int64)
        self._n_read = self._lengths.copy()  # up to there, all was read several tokens at a time
        self._text = np.zeros((n_rows, capacity), dtype=np.int64)
        self._ids = np.zeros((n_rows, 1), dtype=np.int64)
        self._positions = np.zeros((n_rows, 1), dtype=np.int64)
        self._mask = np.zeros((n_rows, capacity), dtype=np.int64)
        self._mask[:, :n_prefix] = 1
        self._desk: Logits = np.empty((0, graph.vocab_size), dtype=np.float32)
        self._prepare()

    def _prepare(self) -> None:
        """Bind a step's arrays."""
        n_rows = len(self._lengths)
        self._alone: dict[tuple[int, ort.InferenceSession], ort.IOBinding] = {}
        self._buffers = self._kept.rows(0, n_rows)
        shape = (n_rows, 1, self._session.graph.vocab_size)
        self._logits = np.empty(shape, dtype=np.float32)
        self._last = self._logits[:, 0]
        step = self._session.onnx.io_binding()
        bind(step, self._buffers)
        self._put(step, self._ids, self._mask, self._positions, self._logits)
        self._step: ort.IOBinding | None = step
        self._steps = {n_rows: step}  # by how many rows, from the first, take it

    def _step_of(self, n_rows: int) -> ort.IOBinding:
        """Return the binding of a step that only the first so many rows take."""
        if self._step is None:
            raise RuntimeError("a step was taken after close()")
        binding = self._steps.get(n_rows)
        if binding is None:
            binding = self._session.onnx.io_binding()
            bind(binding, self._kept.rows(0, n_rows))
            ids, mask, positions = self._ids[:n_rows], self._mask[:n_rows], self._positions[:n_rows]
            self._put(binding, ids, mask, positions, self._logits[:n_rows])
            self._steps[n_rows] = binding
        return binding

    def extend(self, row: int, ids: Ids, *, last: int | None = None) -> Logits:
        """Run some tokens behind what a row holds already, in one step of the model.

        Args:
            row: which row; the others stay as they are.
            ids: int64 [S], at least one, and no more than the row has room for.
            last: how many of the last tokens' logits are needed; None for all.
        Returns:
            The logits behind each of them, float32 [S, V], overwritten by the next call. With `last`
            they may be those of the last tokens only.
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
        self._text[row, start:end] = ids
        n_kept = len(ids) if last is None or not self._session.keeps_last else last
        logits = self._run_alone(row, self._text[row, start:end], self._session.onnx, n_kept)
        if self._n_read[row] == start and len(ids) > 1:
            self._n_read[row] = end
        self._settle(row, end)
        return logits

    def verify(self, row: int, ids: Ids, onnx: ort.InferenceSession) -> Logits:
        """Read a draft by the graph made for that, which writes what single steps would.

        Args:
            row: which row; there must be room for `DRAFT_TOKENS`. What is behind the draft is written
                where nobody reads.
            ids: int64 [S], 1 to `DRAFT_TOKENS` of them.
            onnx: the graph.
        Returns:
            The logits behind each, float32 [S, V], overwritten by the next call.
        """
        start = int(self._lengths[row])
        end = start + len(ids)
        whole = np.zeros(DRAFT_TOKENS, dtype=np.int64)
        whole[: len(ids)] = ids
        self._text[row, start:end] = ids
        logits = self._run_alone(row, whole, onnx, DRAFT_TOKENS)
        self._settle(row, end)
        return logits[: len(ids)]

    def _run_alone(self, row: int, ids: Ids, onnx: ort.InferenceSession, n_kept: int) -> Logits:
        """Run tokens, int64 [S], behind a row's own; return the last K ones' logits, float32 [K, V]."""
        start = int(self._lengths[row])
        end = start + len(ids)
        mask = np.ones((1, end), dtype=np.int64)
        positions = np.arange(start, end, dtype=np.int64)[None]
        logits = self._room_for(n_kept)
        binding = self._alone.get((row, onnx))
        if binding is None:
            binding = self._alone[row, onnx] = self._bound(row, onnx)
        self._put(binding, ids[None], mask, positions, logits[None])
        run(onnx, binding)
        return logits

    def _bound(self, row: int, onnx: ort.InferenceSession) -> ort.IOBinding:
        """Bind a row's buffers; a graph for drafts writes into them once for each of its tokens."""
        binding = onnx.io_binding()
        buffers = self._kept.rows(row, row + 1)
        bind(binding, buffers)
        if onnx is not self._session.onnx:
            for name, buffer in buffers.items():
                for place in range(DRAFT_TOKENS - 1):
                    port = draft_port(f"present.{name}", place)
                    binding.bind_ortvalue_output(port, buffer)
        return binding

    @property
    def size(self) -> tuple[int, int]:
        """How many rows there are, and the most tokens of each, the prefix not counted."""
        return len(self._lengths), self._capacity - self._session.n_prefix

    def has_room(self, row: int, count: int) -> bool:
        """Return whether a row can take so many more tokens."""
        return int(self._lengths[row]) + count <= self._capacity

    def reads_alike(self, onnx: ort.InferenceSession, ids: Ids) -> bool:
        """Say whether a graph for drafts writes what single steps do, to the bit; on the first row.

        Args:
            onnx: the graph.
            ids: int64 [DRAFT_TOKENS], for which there must be room.
        """
        held, start = self.length(0), int(self._lengths[0])
        end = start + len(ids)
        found = []
        for one_by_one in (False, True):
            if one_by_one:
                parts = [self.extend(0, ids[at : at + 1]).copy() for at in range(len(ids))]
            else:
                parts = [self.verify(0, ids, onnx).copy()]
            parts += [array[0, :, start:end].copy() for array in self._kept.arrays.values()]
            found.append(b"".join(part.tobytes() for part in parts))
            self.rewind(0, held)
        return found[0] == found[1]

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
        end = length + self._session.n_prefix
        self._n_read[row] = min(self._n_read[row], end)
        self._settle(row, end)

    def restart(self, row: int) -> None:
        """Forget all of a row's tokens; it has to be extended before the next step."""
        self._mask[row, self._session.n_prefix :] = 0
        self._lengths[row] = self._n_read[row] = self._session.n_prefix

    def rest(self, row: int) -> None:
        """Let steps leave what a row holds as it is, also to the bit, until it goes on.

        A step writes of every row; of one that rests, the place behind its end, where nobody reads.
        """
        end = min(int(self._lengths[row]), self._capacity - 1)
        self._ids[row, 0], self._positions[row, 0] = 0, end
        self._mask[row, : end + 1] = 1
        self._mask[row, end + 1 :] = 0

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
            tokens: an id for each row; None for one that is finished or rests, which stays as it is.
                Of fewer ids than rows, the first rows take them.
        Returns:
            float32 [B, V], overwritten by the next step.
        """
        step = self._step_of(len(tokens))
        for row, token in enumerate(tokens):
            if token is not None:
                length = self._lengths[row]
                self._text[row, length] = self._ids[row, 0] = token
                self._positions[row, 0] = length
                self._mask[row, length] = 1
                self._lengths[row] = length + 1
        run(self._session.onnx, step)
        return self._last[: len(tokens)]

    def step_again(self, row: int) -> Logits:
        """Take a row's last step once more, alone: what failed together may be another row's fault.

        Returns:
            The logits behind its last token, float32 [V], overwritten by the next call.
        """
        token = self._ids[row].copy()
        self._lengths[row] -= 1
        logits: Logits = self.extend(row, token, last=1)[-1]
        return logits

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by copies of some of them; only what is filled and moves is copied.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
        """
        assert isinstance(self._kept, KeyValues)
        n_before = len(self._lengths)
        self._kept.reorder(rows, int(self._lengths.max()))
        order = np.array(rows, dtype=np.int64)
        self._lengths, self._n_read = self._lengths[order], self._n_read[order]
        if len(rows) == n_before:
            for array in (self._text, self._ids, self._positions, self._mask):
                array[:] = array[order]
            return
        self._ids, self._positions = self._ids[order], self._positions[order]
        self._text, self._mask = self._text[order], self._mask[order]
        self._prepare()

    def move(self, row: int, place: int) -> None:
        """Let a row take another place, which is free; where it was, anything may be."""
        end = int(self._lengths[row])
        for array in self._kept.arrays.values():
            array[place, :, :end] = array[row, :, :end]
        self._lengths[place], self._n_read[place] = self._lengths[row], self._n_read[row]
        for each in (self._text, self._ids, self._positions, self._mask):
            each[place] = each[row]

    def resize(self, n_rows: int, capacity: int) -> None:
        """Make room for other rows, or for longer ones; what is in them stays.

        Args:
            n_rows: how many rows; of fewer than there are, the first ones stay.
            capacity: the most tokens in a row, its prompt included and the prefix not; no fewer than a
                row holds that stays.
        """
        assert isinstance(self._kept, Growing)
        n_before, n_prefix = len(self._lengths), self._session.n_prefix
        self._step = None
        self._steps, self._alone, self._buffers = {}, {}, {}  # they hold addresses
        self._capacity = capacity + n_prefix
        self._kept.resize(n_rows, self._capacity, int(self._lengths[:n_rows].max()))
        self._kept.put(self._session.prefix)
        self._lengths = _grown(self._lengths, n_rows, fill=n_prefix)
        self._n_read = _grown(self._n_read, n_rows, fill=n_prefix)
        self._ids = _grown(self._ids, n_rows, 1)
        self._positions = _grown(self._positions, n_rows, 1)
        self._text = _grown(self._text, n_rows, self._capacity)
        self._mask = _grown(self._mask, n_rows, self._capacity)
        for row in range(n_before, n_rows):
            self.rest(row)
        self._prepare()

    def close(self) -> None:
        """Hand the buffers back; nothing can be written from then on. See `State`."""
        self._step = None
        self._steps, self._alone, self._buffers = {}, {}, {}
        self._kept.close()

    def _room_for(self, n_rows: int) -> Logits:
        """Return room for rows of logits, float32 [R, V], that is used again by the next call."""
        if n_rows > len(self._desk):
            shape = (n_rows, self._session.graph.vocab_size)
            self._desk = np.empty(shape, dtype=np.float32)
        return self._desk[:n_rows]

    def _put(
        self, binding: ort.IOBinding, ids: Ids, mask: Ids, positions: Ids, logits: Logits
    ) -> None:
        """Bind arrays, int64 [R, S], [R, T], [R, S] and float32 [R, K, V]; they must outlive the run."""
        arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for name in self._session.graph.input_names:
            if name in arrays:
                value = ort.OrtValue.ortvalue_from_numpy(arrays[name])
                binding.bind_ortvalue_input(name, value)
        if self._session.keeps_last:
            self._session.keep_last(binding, logits.shape[1])
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))


def _grown(array: Ids, *shape: int, fill: int = 0) -> Ids:
    """Return a larger or smaller array, int64, with what was in it as far as it fits."""
    new: Ids = np.full(shape, fill, dtype=np.int64)
    both = tuple(slice(min(size, other)) for size, other in zip(shape, array.shape, strict=True))
    new[both] = array[both]
    return new
