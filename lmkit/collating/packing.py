"""Pack: several rows fill one sequence, so that hardly a place in a batch is padding.

Each sequence is opened by the longest row that is left and filled to its last place by rows whose
lengths add up to it, where there are any; else by what fits best. Where that would need more
sequences, rows are put best-fit instead, longest first: each where the fewest places stay empty.
What is packed together differs from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.collating import Batch, padded
from lmkit.collating.chance import Keys
from lmkit.encoding import IGNORE, Encoded, Ids, learnable, lengths_of

Order = NDArray[np.intp]

SPARE = 200  # of so many sequences one is spare, so that rows may be arranged anew in every epoch
TRIES = 3  # arrangements that are drawn before equally long rows change places in a known one
MOST_EPOCHS = 8  # arrangements that are kept; a mixture goes through its tasks at unlike paces


@attrs.frozen(eq=False)
class Packed(Encoded):
    """Several rows in one sequence; the first token of each is not learned, as in any row.

    Attributes:
        lengths: int64 [R], the rows' lengths.
    """

    lengths: Ids = attrs.field(kw_only=True)


class PackedRows:
    """Rows that are packed anew in every epoch, into as many sequences each time.

    Rows in which nothing is learned are left out. Every other one is in an epoch exactly once.

    Args:
        rows: the rows, none longer than `max_length`.
        max_length: the most tokens in a sequence.
    """

    def __init__(self, rows: Sequence[Encoded], max_length: int) -> None:
        self._rows = learnable(rows)
        self._lengths = lengths_of(self._rows)
        self._max_length = max_length
        self._tight = tight(np.sort(self._lengths), max_length)
        n_needed = 1 + int(self._tight.max(initial=-1))
        self._n_sequences = min(n_needed + n_needed // SPARE, len(self._lengths))
        self._epochs: dict[tuple[int, int], PackedEpoch] = {}

    def __len__(self) -> int:
        """Return how many sequences an epoch has."""
        return self._n_sequences

    @property
    def n_rows(self) -> int:
        """How many rows an epoch has."""
        return len(self._lengths)

    def epoch(self, number: int, seed: int = 0) -> PackedEpoch:
        """Return an epoch's sequences; the same for the same number and seed."""
        if (number, seed) not in self._epochs:
            if len(self._epochs) == MOST_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            which = self._arranged(np.random.default_rng([seed, number]))
            self._epochs[number, seed] = PackedEpoch(self._rows, which)
        return self._epochs[number, seed]

    def _arranged(self, rng: np.random.Generator) -> Ids:
        """Return which sequence each row is in, int64 [N]."""
        shuffled = rng.permutation(self.n_rows)
        order = shuffled[np.argsort(self._lengths[shuffled], kind="stable")]
        found = self._tight
        for _ in range(TRIES):
            drawn = fill_exactly(self._lengths[order], self._max_length, rng)
            if drawn.max(initial=-1) < len(self):
                found = drawn
                break
        which = np.empty(self.n_rows, dtype=np.int64)
        which[order] = _spread_over(found, len(self))
        return which


class PackedEpoch:
    """The sequences of one epoch.

    Args:
        rows: the rows.
        which: int64 [N], the sequence that each is in.
    """

    def __init__(self, rows: Sequence[Encoded], which: Ids) -> None:
        self._rows = rows
        sizes = np.bincount(which)
        members = np.argsort(which, kind="stable")
        self._members = [
            members[end - size : end] for end, size in zip(np.cumsum(sizes), sizes, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._members)

    def draw(self, index: int, rng: np.random.Generator) -> Packed:
        """Return a sequence; nothing in it is random but what is in it."""
        return packed([self._rows[row] for row in self._members[index].tolist()])

    def draw_all(self, indices: Sequence[int], keys: Keys) -> list[Packed]:
        """Return some sequences."""
        return [
            packed([self._rows[row] for row in self._members[index].tolist()]) for index in indices
        ]


def packed(rows: Sequence[Encoded]) -> Packed:
    """Return rows as one sequence.

    >>> one = Encoded(np.array([5, 6]), np.array([5, 6]))
    >>> both = packed([one, one])
    >>> both.input_ids.tolist(), both.labels.tolist(), both.lengths.tolist()
    ([5, 6, 5, 6], [-100, 6, -100, 6], [2, 2])
    """
    lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
    labels = np.concatenate([row.labels for row in rows])
    labels[np.cumsum(lengths) - lengths] = IGNORE
    return Packed(
        np.concatenate([row.input_ids for row in rows]),
        labels,
        sum(row.n_cut for row in rows),
        rows[0].family,
        rows[0].group,
        sum(row.n_cut_learned for row in rows),
        lengths=lengths,
    )


def packed_batch(
    rows: Sequence[Packed], pad_id: int, *, multiple_of: int = 1, width: int = 0
) -> Batch:
    """Right-pad sequences to the longest one; see `padded`.

    Positions start again at every row, and in the padding behind the last one. There is no
    attention mask: where there is none, attention keeps within the rows that positions tell apart.

    Returns:
        `input_ids`, `position_ids` and `labels`, int64 [B, T].

    >>> row = Encoded(np.array([5, 6]), np.array([5, 6]))
    >>> packed_batch([packed([row, row])], pad_id=0, width=6)["position_ids"].tolist()
    [[0, 1, 0, 1, 0, 1]]
    """
    ids = [row.input_ids for row in rows]
    input_ids, mask = padded(ids, pad_id, multiple_of=multiple_of, width=width)
    filled = mask == 1
    labels = np.full_like(input_ids, IGNORE)
    labels[filled] = np.concatenate([row.labels for row in rows])
    position_ids = np.arange(input_ids.shape[1]) - filled.sum(axis=1, keepdims=True)
    position_ids[filled] = places(np.concatenate([row.lengths for row in rows]))
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}


def places(lengths: Ids) -> Ids:
    """Return each token's place in its row, int64 [T], for rows one behind the other.

    >>> places(np.array([3, 1, 2])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: Ids = np.arange(total) - np.repeat(ends - lengths, lengths)
    return found


def packing_fill(lengths: Sequence[int] | Ids, max_length: int) -> float:
    """Return the share of places that hold a token when rows are packed; 1.0 of no rows.

    Args:
        lengths: N rows' lengths in tokens, each at most `max_length`.
        max_length: the places in a sequence.

    >>> packing_fill([6, 5, 4, 3, 2], 10)
    1.0
    >>> packing_fill([6, 6], 10)
    0.6
    """
    sizes = np.sort(np.asarray(lengths, dtype=np.int64))
    if not len(sizes):
        return 1.0
    n_sequences = int(tight(sizes, max_length).max()) + 1
    return float(sizes.sum() / (n_sequences * max_length))


def tight(sizes: Ids, max_length: int) -> Ids:
    """Return which sequence each row is put into, by what needs the fewest; see `best_fit`.

    Args:
        sizes: int64 [N], lengths in ascending order.
        max_length: the places in a sequence.
    """
    ways = (
        fill_exactly(sizes, max_length, np.random.default_rng(0)),
        best_fit(sizes, max_length, np.arange(len(sizes))[::-1]),
    )
    return min(ways, key=lambda which: int(which.max(initial=-1)))


def fill_exactly(sizes: Ids, max_length: int, rng: np.random.Generator) -> Ids:
    """Return which sequence each row is put into, int64 [N], filling one after the other.

    A sequence is opened by the longest row that is left, and goes on with rows that are drawn, short
    or long, so that short ones are left for the last sequences as well. Its end is one row or two of
    exactly the room that is left, or else the longest that fits.

    Args:
        sizes: int64 [N], lengths in ascending order, each from 1 to `max_length`.
        max_length: the places in a sequence.
        rng: what rows are drawn with.

    >>> fill_exactly(np.array([2, 3, 4, 5, 6]), 10, np.random.default_rng(0)).tolist()
    [1, 1, 0, 1, 0]
    """
    stock = _Stock(sizes, max_length)
    drawn = iter(sizes[rng.permutation(len(sizes))].tolist())
    which, n_sequences = [0] * len(sizes), 0
    while length := stock.longest:
        room = max_length
        while length:
            which[stock.take(length)] = n_sequences
            room -= length
            length = stock.choose(room, drawn)
        n_sequences += 1
    return np.array(which, dtype=np.int64)


class _Stock:
    """Rows that are not yet in a sequence, by their lengths.

    Args:
        sizes: int64 [N], lengths in ascending order.
        max_length: the most that a length may be.
    """

    def __init__(self, sizes: Ids, max_length: int) -> None:
        counts = np.bincount(sizes, minlength=max_length + 1)
        self._counts: list[int] = counts.tolist()
        self._starts: list[int] = (np.cumsum(counts) - counts).tolist()
        self._most = max_length
        self._there = sum(1 << length for length in np.flatnonzero(counts).tolist())
        self._mirrored = sum(1 << max_length - n for n in np.flatnonzero(counts).tolist())

    @property
    def longest(self) -> int:
        """The length of the longest row, 0 where there is none."""
        return max(0, self._there.bit_length() - 1)

    def take(self, length: int) -> int:
        """Return the place of a row of that length, which is taken away."""
        self._counts[length] -= 1
        if not self._counts[length]:
            self._there ^= 1 << length
            self._mirrored ^= 1 << self._most - length
        return self._starts[length] + self._counts[length]

    def choose(self, room: int, drawn: Iterator[int]) -> int:
        """Return the length of a row to go on with, 0 where none fits; see `fill_exactly`."""
        if room == 0 or self._there >> room & 1:
            return room
        if pair := self._half_of(room):
            return pair
        if room > 2 * self.longest:
            return next((length for length in drawn if self._counts[length]), self.longest)
        return max(0, (self._there & (2 << room) - 1).bit_length() - 1)

    def _half_of(self, room: int) -> int:
        """Return the longer of two lengths that fill the room together, 0 where there are none."""
        pairs = self._there & self._mirrored >> self._most - room
        if room % 2 == 0 and self._counts[room // 2] == 1:
            pairs &= ~(1 << room // 2)
        return max(0, pairs.bit_length() - 1)


def best_fit(lengths: Ids, max_length: int, order: Order) -> Ids:
    """Return which sequence each row is put into, int64 [N], counted from 0.

    A row goes where the fewest places stay empty behind it, or opens a new sequence.

    Args:
        lengths: int64 [N], each from 1 to `max_length`.
        max_length: the places in a sequence.
        order: int64 [N], the rows in the order in which they are put.

    >>> best_fit(np.array([6, 5, 4, 3, 2]), 10, np.arange(5)).tolist()
    [0, 1, 0, 1, 1]
    """
    open_with: list[list[int]] = [[] for _ in range(max_length + 1)]  # sequences by places left
    left = 0  # bit n is set where a sequence has n places left
    n_sequences = 0
    which = []
    for length in lengths[order].tolist():
        fitting = left >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = open_with[room].pop()
            if not open_with[room]:
                left ^= 1 << room
        else:
            room, sequence = max_length, n_sequences
            n_sequences += 1
        which.append(sequence)
        if rest := room - length:
            open_with[rest].append(sequence)
            left |= 1 << rest
    found = np.empty(len(which), dtype=np.int64)
    found[order] = which
    return found


def _spread_over(which: Ids, n_sequences: int) -> Ids:
    """Return rows put into exactly so many sequences, where they have come into fewer."""
    which = which.copy()
    for new in range(int(which.max(initial=-1)) + 1, n_sequences):
        fullest = int(np.bincount(which).argmax())
        which[np.flatnonzero(which == fullest)[0]] = new
    return which
