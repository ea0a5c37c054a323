"""How a causal model's prompts are read: together, apart, or from where an earlier text has left off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lmkit.answering.logits import Logits
from lmkit.encoding import Ids
from lmkit.runtime.causal_rows import CausalRows
from lmkit.runtime.keyvalues import bind
from lmkit.runtime.prefixes import LEAST, Kept, n_common
from lmkit.runtime.session import run

CHUNK = 512  # tokens that are read at once, which bounds what a pass holds in memory
_MEASURED = 4  # tokens whose logits are compared, read together and one by one
_RAGGED = 64  # places of a pass that may be padding, or have logits that nobody asked for


class CausalState(CausalRows):
    """Rows that are being written, and what their prompts have in common with earlier ones'."""

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
        return self.read_in_chunks(prompt[self.take_known(row, prompt) :], row)

    def take_known(self, row: int, prompt: Ids) -> int:
        """Begin a fresh row with what an earlier request has read of its prompt, int64 [P].

        Returns:
            How many tokens that is; two at least are left to read.
        """
        pace = self._session.pace
        found = self._session.prefixes.find(prompt, written=pace.is_steady is not False)
        if found is None:
            return 0
        kept, count = found
        if kept.n_read < count and pace.is_steady is None:
            self._take(row, kept, max(1, kept.n_read))
            self.measure_rounding(row, prompt[max(1, kept.n_read) :])
        if kept.n_read < count and not pace.is_steady:
            count = kept.n_read if kept.n_read >= LEAST else 0
        self._take(row, kept, count)
        return count

    def n_shared(self, row: int, prompt: Ids) -> int:
        """Return how many tokens of a prompt, int64 [P], a row could give: it has read the same ones.

        Two at least are left to read, and what was written token by token does not count.
        """
        start = self._session.n_prefix
        return n_common(self._text[row, start : int(self._n_read[row])], prompt[:-2])

    def copy(self, row: int, source: int, count: int) -> None:
        """Begin a row with the first tokens of another one, which has read them.

        Args:
            row: a fresh one.
            source: the row that has them.
            count: how many, `n_shared` of them at the most.
        """
        start = self._session.n_prefix
        end = start + count
        for array in self._kept.arrays.values():
            array[row, :, start:end] = array[source, :, start:end]
        self._text[row, start:end] = self._text[source, start:end]
        self._n_read[row] = end
        self._settle(row, end)

    def _take(self, row: int, kept: Kept, count: int) -> None:
        """Begin a row with the first tokens of what was kept."""
        start = self._session.n_prefix
        end = start + count
        for array, part in zip(self._kept.arrays.values(), kept.parts, strict=True):
            array[row, :, start:end] = part[:, :count]
        self._text[row, start:end] = kept.ids[:count]
        self._n_read[row] = start + min(count, kept.n_read)
        self._settle(row, end)

    def keep(self, row: int = 0) -> None:
        """Keep what a row holds, for requests that begin with the same tokens."""
        self._keep(row, self.length(row))

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
            stop = start + n_next(end - start, CHUNK)
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

    def renew(self, row: int, prompt: Ids, limit: int) -> Logits | None:
        """Let another text take a row's place; None where it has no room; see `State`."""
        n_prefix = self._session.n_prefix
        if n_prefix + len(prompt) + limit > self._capacity:
            return None
        # Where its prefix ends, which stands there still.
        self._lengths[row] = self._n_read[row] = n_prefix
        return self.read_prompt(row, prompt)


def n_next(n_left: int, most: int) -> int:
    """Return how many tokens of a prompt to read next: no single one is left over.

    A single one would go through other kernels, which round otherwise.

    Args:
        n_left: the tokens that are left to read.
        most: the most that are read at once, 2 or more.

    >>> n_next(1000, 512), n_next(513, 512), n_next(3, 2)
    (512, 511, 3)
    """
    if n_left <= max(most, 3):
        return n_left
    return most - 1 if n_left == most + 1 else most


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
