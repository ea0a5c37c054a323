"""Rows for a causal model that reads one long text: windows of it, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from lmkit.collating import Batch
from lmkit.collating.causal import CausalCollator
from lmkit.encoding import IGNORE, Encoded, Ids, Whole, joined, stretches
from lmkit.errors import RecordError, TaskError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing import Tokenizer
from lmkit.validators import as_int, at_least
from lmkit.values import value


@value
class BlockCollator:
    """Windows of one long text, in which a token is predicted from at most `block_size` before it.

    All records are joined into one text, with the tokenizer's EOS between them. A .txt file is a
    single record, read as it stands: its blank lines and line ends are part of the text.

    A window has `block_size + 1` tokens, of which all but the first are predicted: the head's shift
    makes of it nanoGPT's x (all but the last) and y (all but the first). The last token is never
    looked back on, so a model needs `block_size + 1` positions, and no prediction sees more than
    `block_size` tokens.

    Training draws windows at random. A loss is measured on consecutive ones, each of which begins
    with the last token of the one before, so every token but the text's first is predicted once.

    Attributes:
        block_size: the most tokens that a prediction looks back on.
    """

    block_size: int = attrs.field(default=256, converter=as_int, validator=at_least(1))

    family = Family.CAUSAL

    @property
    def max_length(self) -> int:
        """The tokens in a window."""
        return self.block_size + 1

    @property
    def kept(self) -> int:
        """Half a window: a text that outgrows one is continued from its last half."""
        return max(1, self.max_length // 2)

    def within(self, most: int | None, target: int | None) -> BlockCollator:
        """Return a collator whose windows have at most so many tokens."""
        if most is None:
            return self
        return attrs.evolve(self, block_size=max(1, min(self.block_size, most - 1)))

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return a record's part of the text, however long; nothing frames it.

        Raises:
            RecordError: no text in it is learned.
        """
        return self._whole(segments, tokenizer).encoded(self.family)

    def whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> list[Whole]:
        """Return the same: nothing of it is cut."""
        return [self._whole(segments, tokenizer)]

    def _whole(self, segments: Sequence[Segment], tokenizer: Tokenizer) -> Whole:
        body = stretches(segments, tokenizer)
        ids = np.asarray(joined(body), dtype=np.int64)
        learned = np.repeat([s.learn for s in body], [len(s.ids) for s in body]).astype(np.bool_)
        if not learned.any():
            raise RecordError("", "nothing in it is learned: its text is empty")
        return Whole(ids, np.where(learned, ids, IGNORE), np.ones(len(ids), dtype=np.bool_))

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the ids of the text to be continued, int64 [P].

        Where there is no text, it is what the tokenizer puts before one; or a line's end, behind
        which a line begins; or, for a tokenizer without line ends, its EOS, behind which a record
        begins.
        """
        ids = joined(stretches(segments, tokenizer))
        return np.asarray(ids or _start(tokenizer), dtype=np.int64)

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Windows:
        """Return windows at random places of the joined rows, other ones in each epoch."""
        return Windows(_joined(rows, tokenizer), self.block_size)

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> list[Encoded]:
        """Return consecutive windows that predict every token of the joined rows but the first."""
        text = _joined(rows, tokenizer)
        return [
            _part(text, start, start + self.block_size + 1)
            for start in range(0, max(1, len(text) - 1), self.block_size)
        ]

    def hold_out(
        self, rows: Sequence[Encoded], tokenizer: Tokenizer, fraction: float
    ) -> tuple[list[Encoded], list[Encoded]]:
        """Return the text's beginning, to learn from, and its last fraction, to be measured.

        Windows drawn at random would share their text with those learned from, so the tail is cut
        off whole. An EOS that would open it stays with the record that it ends.

        Raises:
            TaskError: the fraction leaves either part without a prediction.
        """
        text = _joined(rows, tokenizer)
        edge = int(len(text) * (1 - fraction))
        edge += edge < len(text) and int(text.input_ids[edge]) == tokenizer.eos_id
        if not 2 <= edge <= len(text) - 2:
            raise TaskError(
                f"eval_fraction is {fraction:g}, which cuts a text of {len(text)} tokens into "
                f"{edge} to learn from and {len(text) - edge} held out; expected 2 or more in each"
            )
        return [_part(text, 0, edge)], [_part(text, edge, len(text))]

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Return windows as `CausalCollator` does rows: only a text's last may need padding."""
        return CausalCollator(max_length=self.max_length).collate(rows, pad_id)


class Windows:
    """Windows of a text at random places.

    Args:
        text: the whole text.
        block_size: how many predictions a window has, where the text is long enough.
    """

    def __init__(self, text: Encoded, block_size: int) -> None:
        self._text = text
        self._width = min(block_size + 1, len(text))

    def __len__(self) -> int:
        """Return how many windows predict as many tokens as the text has."""
        return max(1, (len(self._text) - 1) // max(1, self._width - 1))

    def draw(self, index: int, rng: np.random.Generator) -> Encoded:
        """Return a window that starts anywhere, each place being as likely as any other."""
        start = int(rng.integers(len(self._text) - self._width + 1))
        return _part(self._text, start, start + self._width)


def _joined(rows: Sequence[Encoded], tokenizer: Tokenizer) -> Encoded:
    """Return all rows as one, an EOS between them, which is learned."""
    if len(rows) == 1:
        return rows[0]
    if tokenizer.eos_id is None:
        raise TokenizerError(
            f"{len(rows)} records are joined by an EOS token and the tokenizer has none; set "
            "eos_token in its tokenizer_config.json, or give one text"
        )
    end = np.array([tokenizer.eos_id])
    ids = [part for row in rows for part in (row.input_ids, end)][:-1]
    labels = [part for row in rows for part in (row.labels, end)][:-1]
    return Encoded(np.concatenate(ids), np.concatenate(labels))


def _part(text: Encoded, start: int, end: int) -> Encoded:
    return Encoded(text.input_ids[start:end], text.labels[start:end])


def _start(tokenizer: Tokenizer) -> Sequence[int]:
    """Return the ids from which a text is begun."""
    if tokenizer.opening_ids:
        return tokenizer.opening_ids
    if not tokenizer.unknown_in("\n") and (line_end := tokenizer.encode("\n")):
        return line_end
    if tokenizer.eos_id is not None:
        return (tokenizer.eos_id,)
    raise RecordError(
        "", "the prompt is empty, and the tokenizer has no token that a text could start from"
    )
