"""Rows that a causal graph is writing: their keys and values, and the arrays of the next step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from lmkit.encoding import Ids
from lmkit.logits import Logits
from lmkit.precisions import DRAFT_TOKENS, draft_port
from lmkit.runtime.keyvalues import KeyValues, bind
from lmkit.runtime.prefixes import LEAST, Kept, n_common
from lmkit.runtime.session import run

if TYPE_CHECKING:
    from lmkit.runtime.causal import CausalSession

CHUNK = 512  # tokens that are read at once, which bounds what a pass holds in memory
_MEASURED = 4  # tokens whose logits are compared, read together and one by one
_RAGGED = 64  # places of a pass that may be padding, or have logits that nobody asked for


class CausalState:
    """Rows of any lengths. Every array is bound once and written in place from then on.

    Args:
        session: the loaded graph.
        n_rows: how many rows.
        capacity: the most tokens in a row, its prompt included and the prefix not.
    """

    def __init__(self, session: CausalSession, n_rows: int, capacity: int) -> None:
        graph, n_prefix = session.graph, session.n_prefix
        capacity += n_prefix
        shape = (n_rows, graph.n_kv_heads, capacity, graph.head_size)
        self._session = session
        self._capacity = capacity
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

    def read(self, rows: Sequence[Ids]) -> Logits:
        """Run whole rows; return the logits behind every token, float32 [B, T, V].

        They are right-padded to the longest, and mean nothing where a row has no token.
        """
        width = max(map(len, rows))
        shape = (len(rows), width, self._session.graph.vocab_size)
        logits = np.zeros(shape, dtype=np.float32)
        if self._session.n_prefix:
            # With a past, the operator takes several new tokens of one row only.
            for row, ids in enumerate(rows):
                logits[row, : len(ids)] = self.extend(row, ids)
        else:
            self._read_together(0, rows, logits)
        return logits

    def read_last(self, rows: Sequence[Ids]) -> Logits:
        """Run whole rows; return the logits behind each one's last token, float32 [B, V]."""
        last: Logits = np.empty((len(rows), self._session.graph.vocab_size), dtype=np.float32)
        n_shared = self._n_to_share(rows)
        for start, part in _passes(rows, alone=self._session.n_prefix > 0 or n_shared > 0):
            if len(part) == 1:
                last[start] = self.read_prompt(start, part[0])
                if start == 0 and n_shared:
                    self._keep(0, n_shared)
                continue
            lengths = np.array([len(ids) for ids in part])
            n_kept = int(lengths.max())
            if self._session.keeps_last:
                n_kept -= int(lengths.min()) - 1
            shape = (len(part), n_kept, last.shape[1])
            logits = self._room_for(len(part) * n_kept).reshape(shape)
            self._read_together(start, part, logits)
            ends = lengths - lengths.max() + n_kept - 1
            last[start : start + len(part)] = logits[np.arange(len(part)), ends]
        return last

    def _n_to_share(self, rows: Sequence[Ids]) -> int:
        """Return how many tokens to read once for all rows; 0 where reading them together is faster."""
        prefixes, cost = self._session.prefixes, self._session.pace.cost
        if len(rows) == 1 or not prefixes.most_bytes:
            return 0
        n_shared = min(n_common(rows[0], row[:-2]) for row in rows)
        if n_shared < LEAST:
            return 0
        found = prefixes.find(rows[0], written=False)
        first = len(rows[0]) - (found[1] if found else 0)
        alone = cost(first) + sum(cost(len(row) - n_shared) for row in rows[1:])
        passes = _passes(rows, alone=False)
        together = sum(cost(len(part) * max(map(len, part))) for _, part in passes)
        return n_shared if alone < together else 0

    def read_prompt(self, row: int, prompt: Ids) -> Logits:
        """Run one fresh row, but for what an earlier request has read of it already.

        Args:
            row: which row.
            prompt: int64 [P].
        Returns:
            The logits behind its last token, float32 [V], overwritten by the next call.
        """
        pace = self._session.pace
        found = self._session.prefixes.find(prompt, written=pace.is_steady is not False)
        if found is not None:
            kept, count = found
            if kept.n_read < count and pace.is_steady is None:
                self._take(row, kept, max(1, kept.n_read))
                self.measure_rounding(row, prompt[max(1, kept.n_read) :])
            if kept.n_read < count and not pace.is_steady:
                count = kept.n_read if kept.n_read >= LEAST else 0
            self._take(row, kept, count)
            prompt = prompt[count:]
        return self.read_in_chunks(prompt, row)

    def _take(self, row: int, kept: Kept, count: int) -> None:
        """Begin a row with the first tokens of what was kept."""
        start = self._session.n_prefix
        end = start + count
        for array, part in zip(self._kept.arrays.values(), kept.parts, strict=True):
            array[row, :, start:end] = part[:, :count]
        self._text[row, start:end] = kept.ids[:count]
        self._n_read[row] = start + min(count, kept.n_read)
        self._settle(row, end)

    def keep(self) -> None:
        """Keep what the first row holds, for requests that begin with the same tokens."""
        self._keep(0, self.length(0))

    def _keep(self, row: int, count: int) -> None:
        start = self._session.n_prefix
        n_read = int(self._n_read[row]) - start
        if self._session.pace.is_steady is False:  # what was written one by one is of no use then
            count = min(count, n_read)
        ids = self._text[row, start : start + count]
        arrays = {name: array[row] for name, array in self._kept.arrays.items()}
        self._session.prefixes.keep(ids, n_read, arrays, start)

    def measure_rounding(self, row: int, ids: Ids) -> None:
        """Read some tokens together and one by one: note how far their logits differ.

        It takes several: a difference that rounded activations enlarge may be small once, by chance.
        Where there is no room for so many, nothing is measured.

        Args:
            row: which row, not empty; it stays as it is.
            ids: int64 [S].
        """
        held = self.length(row)
        if len(ids) < _MEASURED or self._lengths[row] + _MEASURED > self._capacity:
            return
        ids = ids[:_MEASURED]
        together = self.extend(row, ids).copy()
        self.rewind(row, held)
        alone = np.stack([self.extend(row, ids[at : at + 1])[0].copy() for at in range(_MEASURED)])
        self.rewind(row, held)
        # What is equal by chance is no measure: float32 holds 24 bits of a logit.
        largest = float(np.abs(together[np.isfinite(together)]).max(initial=1.0))
        self._session.pace.rounding = max(float(np.abs(alone - together).max()), largest * 2.0**-22)

    def read_in_chunks(self, prompt: Ids, row: int = 0) -> Logits:
        """Run one row, some tokens at a time, so that a long prompt's logits never lie in memory.

        Args:
            prompt: int64 [P].
            row: which row it is.
        Returns:
            The logits behind its last token, float32 [V], overwritten by the next call.
        """
        start, end = 0, len(prompt)
        while start < end:
            stop = min(start + CHUNK, end)
            if stop == end - 1 and stop - start > 2:
                stop -= 1  # no single one is left over: it would go through other kernels
            logits = self.extend(row, prompt[start:stop], last=1)
            start = stop
        last: Logits = logits[-1]
        return last

    def _read_together(self, first: int, rows: Sequence[Ids], logits: Logits) -> None:
        """Run whole fresh rows, right-padded; write the last K places' logits, float32 [R, K, V]."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        width = int(lengths.max())
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(rows)
        positions = np.ascontiguousarray(np.broadcast_to(np.arange(width), mask.shape))
        onnx = self._session.onnx
        binding = onnx.io_binding()
        bind(binding, self._kept.rows(first, first + len(rows)))
        self._put(binding, ids, mask, positions, logits)
        run(onnx, binding)
        for row, length in enumerate(lengths.tolist(), start=first):
            self._text[row, :length] = ids[row - first, :length]
            self._n_read[row] = length
            self._settle(row, length)

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
        mask = np.ones((1, end), dtype=np.int64)
        positions = np.arange(start, end, dtype=np.int64)[None]
        logits = self._room_for(n_kept)
        onnx = self._session.onnx
        binding = self._alone.get((row, onnx))
        if binding is None:
            binding = self._alone[row, onnx] = onnx.io_binding()
            bind(binding, self._kept.rows(row, row + 1))
        self._put(binding, self._text[row : row + 1, start:end], mask, positions, logits[None])
        run(onnx, binding)
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
        end = start + DRAFT_TOKENS
        whole = np.zeros((1, DRAFT_TOKENS), dtype=np.int64)
        whole[0, : len(ids)] = ids
        self._text[row, start : start + len(ids)] = ids
        mask = np.ones((1, end), dtype=np.int64)
        positions = np.arange(start, end, dtype=np.int64)[None]
        logits = self._room_for(DRAFT_TOKENS)
        binding = self._alone.get((row, onnx))
        if binding is None:
            binding = self._alone[row, onnx] = onnx.io_binding()
            buffers = self._kept.rows(row, row + 1)
            bind(binding, buffers)
            for name, buffer in buffers.items():
                for place in range(DRAFT_TOKENS - 1):
                    port = draft_port(f"present.{name}", place)
                    binding.bind_ortvalue_output(port, buffer)
        self._put(binding, whole, mask, positions, logits[None])
        run(onnx, binding)
        self._settle(row, start + len(ids))
        return logits[: len(ids)]

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
        if self._step is None:
            raise RuntimeError("a step was taken after close()")
        for row, token in enumerate(tokens):
            if token is not None:
                length = self._lengths[row]
                self._text[row, length] = self._ids[row, 0] = token
                self._positions[row, 0] = length
                self._mask[row, length] = 1
                self._lengths[row] = length + 1
        run(self._session.onnx, self._step)
        return self._last

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by copies of some of them; only what is filled and moves is copied.

        Args:
            rows: which row each new one is a copy of; there may be more or fewer than before.
        """
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

    def renew(self, row: int, prompt: Ids, limit: int) -> Logits | None:
        """Let another text take a row's place; None where it has no room; see `State`."""
        n_prefix = self._session.n_prefix
        if n_prefix + len(prompt) + limit > self._capacity:
            return None
        # Where its prefix ends, which stands there still.
        self._lengths[row] = self._n_read[row] = n_prefix
        return self.read_prompt(row, prompt)

    def close(self) -> None:
        """Hand the buffers back; nothing can be written from then on. See `State`."""
        self._step = None
        self._alone, self._buffers = {}, {}
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


def _passes(rows: Sequence[Ids], *, alone: bool) -> Iterator[tuple[int, list[Ids]]]:
    """Yield rows that are read together, and the place of the first.

    Args:
        rows: int64 [P] each.
        alone: whether only one may be read at a time.
    """
    part: list[Ids] = []
    for place, ids in enumerate(rows):
        lengths = [len(row) for row in (*part, ids)]
        spread = (max(lengths) - min(lengths)) * len(lengths)
        if part and (alone or max(lengths) * len(lengths) > CHUNK or spread > _RAGGED):
            yield place - len(part), part
            part = []
        part.append(ids)
    if part:
        yield len(rows) - len(part), part
