"""Collate: rows become one padded numpy batch, and the family decides how a row is built.

A collator owns its family: it says which special tokens frame a row, what is cut when a row is too
long, what of the rows differs from epoch to epoch, and which arrays a batch has. It makes numpy
only; the training side turns that into tensors.

Each family has a module here: `causal`, `masked`, `seq2seq`, and `blocks` for windows of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lmkit.collating.chance import Keys
from lmkit.encoding import IGNORE, Encoded, Ids, Whole, lengths_of
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing import Tokenizer

Batch = dict[str, Ids]


@runtime_checkable
class Feed(Protocol):
    """What training draws its rows from, in one epoch after another."""

    def __len__(self) -> int:
        """Return how many rows an epoch has."""

    def draw(self, index: int, rng: np.random.Generator) -> Encoded:
        """Return a row of an epoch.

        Args:
            index: its place, from 0 to `len` - 1.
            rng: the only source of what is random in it. It is seeded with the run's seed, the
                epoch and the index, so a row comes out the same in every process and after a resume.
        """


@runtime_checkable
class BatchFeed(Feed, Protocol):
    """A feed that draws the rows of a batch together, which is faster than one by one."""

    def draw_all(self, indices: Sequence[int], keys: Keys) -> Sequence[Encoded]:
        """Return some rows of an epoch.

        Args:
            indices: B places, from 0 to `len` - 1.
            keys: uint64 [B], the only source of what is random in each; see `chance.row_keys`.
        """


@runtime_checkable
class Schedule(Protocol):
    """A feed that is arranged anew in every epoch: where a row stands depends on the epoch."""

    def __len__(self) -> int:
        """Return how many rows an epoch has."""

    def epoch(self, number: int, seed: int = 0) -> Feed:
        """Return what one epoch draws from; the same for the same number and seed.

        Args:
            number: which epoch, the first being 0.
            seed: the run's.
        """


@runtime_checkable
class Collator(Protocol):
    """What turns segments into a row, and rows into a batch."""

    @property
    def family(self) -> Family:
        """How the model reads a row."""

    @property
    def max_length(self) -> int:
        """The most tokens in a row."""

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return one training row; raise `RecordError` if there is nothing to learn in it."""

    def whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> list[Whole]:
        """Return what `encode` makes the row of, before it is cut: one text, or source and target."""

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the ids of a prompt, int64 [P]."""

    def within(self, most: int | None, target: int | None) -> Collator:
        """Return a collator whose rows a model can read.

        Args:
            most: the most tokens of a row, or of a seq2seq row's source; None for any number.
            target: the most tokens of a seq2seq row's target.
        """

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Feed | Schedule:
        """Return what training draws from; `RowFeed` if the rows are the same in every epoch."""

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Sequence[Encoded]:
        """Return the rows that a loss is measured on: always the same ones for the same input."""

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Return the rows as arrays of one shape, int64 [B, T]."""


@runtime_checkable
class Stream(Collator, Protocol):
    """A collator to which all records are one text; a .txt file is read for it as it stands.

    A model of it may write on past the end of a row: then it reads the last `kept` tokens anew.
    """

    @property
    def kept(self) -> int:
        """How many tokens a text is continued from when it has filled a row."""

    def hold_out(
        self, rows: Sequence[Encoded], tokenizer: Tokenizer, fraction: float
    ) -> tuple[list[Encoded], list[Encoded]]:
        """Return what is learned from, and the text's last fraction, which is measured."""


class RowFeed:
    """Rows that are the same in every epoch.

    Args:
        rows: the rows.
    """

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> Ids:
        """Every row's length in tokens, int64 [N]."""
        return lengths_of(self._rows)

    def draw(self, index: int, rng: np.random.Generator) -> Encoded:
        """Return a row as it is."""
        return self._rows[index]

    def draw_all(self, indices: Sequence[int], keys: Keys) -> list[Encoded]:
        """Return some rows as they are."""
        return [self._rows[index] for index in indices]


def shorter(length: int, most: int | None) -> int:
    """Return a length that is at most so much; None limits nothing."""
    return length if most is None else min(length, most)


def padded(
    rows: Sequence[Ids], fill: int, *, multiple_of: int = 1, width: int = 0
) -> tuple[Ids, Ids]:
    """Right-pad rows to the longest one.

    Args:
        rows: B rows, each int64 [T].
        fill: what stands in empty cells.
        multiple_of: the width is a multiple of this.
        width: the width is at least this.
    Returns:
        The rows and their mask (one where a row has a token), int64 [B, T].

    >>> cells, mask = padded([np.array([5, 6]), np.array([7])], fill=0)
    >>> cells.tolist(), mask.tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]])
    """
    lengths = np.array([len(row) for row in rows])
    longest = max(int(lengths.max()), width)
    mask = np.arange(-(-longest // multiple_of) * multiple_of) < lengths[:, None]
    cells = np.full(mask.shape, fill, dtype=np.int64)
    cells[mask] = np.concatenate(rows)
    return cells, mask.astype(np.int64)


def text_batch(
    rows: Sequence[Encoded], pad_id: int, *, multiple_of: int = 1, width: int = 0
) -> Batch:
    """Right-pad rows of one text each to the longest one; see `padded`.

    Labels ignore cells by their place, never by `pad_id`, so it may be a token that is learned
    elsewhere.

    Returns:
        `input_ids`, `attention_mask` and `labels`, int64 [B, T].
    """
    ids = [row.input_ids for row in rows]
    input_ids, mask = padded(ids, pad_id, multiple_of=multiple_of, width=width)
    labels = np.full_like(input_ids, IGNORE)
    labels[mask == 1] = np.concatenate([row.labels for row in rows])
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
