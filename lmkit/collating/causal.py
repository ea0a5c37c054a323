"""Rows for a causal model: one text, each token of which predicts the next."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import attrs
import numpy as np

from lmkit.collating import Batch, RowFeed, shorter, text_batch
from lmkit.collating.cutting import LEFT, Kept, fitted
from lmkit.collating.packing import Packed, PackedRows, packed_batch
from lmkit.encoding import IGNORE, Encoded, Ids, Stretch, Whole, joined, owners, stretches
from lmkit.errors import RecordError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Cut, Segment
from lmkit.tokenizing import Tokenizer
from lmkit.validators import FLAG, as_int, at_least
from lmkit.values import value


@value
class CausalCollator:
    """Rows for a model that predicts each next token.

    A row starts with what the tokenizer puts before a text (a BOS, or nothing), at most once, and
    ends with its EOS, which is learned; a chat template brings both itself. A row that is too long
    loses what follows its answer, and then ids from its left, unless its segments say what of them may
    go (`Template.cut`). The last id that is learned, the answer's end, always stays.

    Attributes:
        max_length: the most tokens in a row.
        pad_to_multiple_of: pad a batch to a multiple of this many tokens.
        pad_to_max_length: pad every batch to `max_length`, so that all have one shape.
        pack: whether training fills each sequence of up to `max_length` tokens with several rows,
            none of which sees another; a batch then counts sequences. See `lmkit.collating.packing`.
    """

    max_length: int = attrs.field(default=1024, converter=as_int, validator=at_least(2))
    pad_to_multiple_of: int = attrs.field(default=1, converter=as_int, validator=at_least(1))
    pad_to_max_length: bool = attrs.field(default=False, validator=FLAG)
    pack: bool = attrs.field(default=False, validator=FLAG)

    family = Family.CAUSAL

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return one training row, cut to `max_length`.

        Raises:
            RecordError: no text in it is learned.
            TokenizerError: the tokenizer has no EOS with which to end the answer.
        """
        return self._whole(segments, tokenizer, delimited=delimited).encoded(self.family)

    def whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> list[Whole]:
        """Return the text before it is cut; raises what `encode` does."""
        return [self._whole(segments, tokenizer, delimited=delimited)]

    def _whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Whole:
        opening, body = self._framed(segments, tokenizer, delimited=delimited)
        if not any(stretch.learn for stretch in body):
            raise RecordError("", "nothing in it is learned: it has no answer")
        _end_answer(body, tokenizer, delimited=delimited)
        ids = np.asarray([*opening, *joined(body)], dtype=np.int64)
        learned = np.repeat(
            [False, *(stretch.learn for stretch in body)],
            [len(opening), *(len(stretch.ids) for stretch in body)],
        )
        kept = np.ones(len(ids), dtype=np.bool_)
        if len(ids) > self.max_length:
            room = self.max_length - len(opening)
            kept[len(opening) :] = _fitted(segments, body, tokenizer, room)
        return Whole(ids, np.where(learned, ids, IGNORE), kept)

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the ids of a prompt, int64 [P]; it is never cut."""
        opening, body = self._framed(segments, tokenizer, delimited=delimited)
        ids = [*opening, *joined(body)]
        if not ids:
            raise RecordError("", "the prompt is empty, so there is nothing to continue")
        return np.asarray(ids, dtype=np.int64)

    def within(self, most: int | None, target: int | None) -> CausalCollator:
        """Return a collator whose rows have at most so many tokens."""
        return attrs.evolve(self, max_length=shorter(self.max_length, most))

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> RowFeed | PackedRows:
        """Return the rows, the same in every epoch, or what packs them anew in each."""
        return PackedRows(rows, self.max_length) if self.pack else RowFeed(rows)

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Sequence[Encoded]:
        """Return the rows as they are."""
        return rows

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Right-pad rows to the longest one.

        Args:
            rows: B rows, or B sequences of packed ones.
            pad_id: the id for empty cells. Labels ignore cells by their place, never by this id,
                so it may be a token that is learned elsewhere.
        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 [B, T]; of packed rows `position_ids`
            instead of the mask, which start again at every row.

        >>> row = Encoded(np.array([5, 6]), np.array([IGNORE, 6]))
        >>> batch = CausalCollator(pad_to_multiple_of=3).collate([row], pad_id=6)
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 6]], [[-100, 6, -100]])
        """
        width = self.max_length if self.pad_to_max_length else 0
        sequences = [row for row in rows if isinstance(row, Packed)]
        if len(sequences) == len(rows):
            return packed_batch(sequences, pad_id, multiple_of=self.pad_to_multiple_of, width=width)
        return text_batch(rows, pad_id, multiple_of=self.pad_to_multiple_of, width=width)

    def _framed(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> tuple[tuple[int, ...], list[Stretch]]:
        """Return the ids before the text, unless the text has them already, and its stretches."""
        body = stretches(segments, tokenizer)
        opening = () if delimited else tokenizer.opening_ids
        first = next((stretch.ids[0] for stretch in body if stretch.ids), None)
        if opening and first == opening[-1]:
            opening = opening[:-1]
        return opening, body


# What follows the answer goes before all else, as nothing can be learned from it.
BEHIND = Cut("right", order=-sys.maxsize)


def _fitted(
    segments: Sequence[Segment], body: Sequence[Stretch], tokenizer: Tokenizer, room: int
) -> Kept:
    """Return which ids of a row's stretches stay, bool [N], the end of the answer among them."""
    last = max(index for index, segment in enumerate(segments) if segment.learn)
    unsaid = [LEFT] * (last + 1) + [BEHIND] * (len(segments) - last - 1)
    counts = [len(stretch.ids) for stretch in body]
    answer = max(index for index, stretch in enumerate(body) if stretch.learn)

    def owner() -> Ids:
        if all(
            segment.cut is None for segment in segments
        ):  # then only what is behind is told apart
            return np.repeat([0] * (answer + 1) + [last + 1] * (len(body) - answer - 1), counts)
        found = owners(segments, tokenizer)
        n_ended = counts[answer] - len(found[answer])  # an EOS that the text does not have
        found[answer] = np.append(found[answer], np.full(n_ended, last))
        return np.concatenate(found)

    end = sum(counts[: answer + 1]) - 1
    return fitted(segments, owner, sum(counts), room, unsaid=unsaid, end=end)


def _end_answer(body: list[Stretch], tokenizer: Tokenizer, *, delimited: bool) -> None:
    """Make the last answer end in a token that stops generation, and learn that token."""
    last = max(index for index, stretch in enumerate(body) if stretch.learn)
    answer = body[last].ids
    if answer and answer[-1] == tokenizer.eos_id:
        return
    if delimited and _ended_by_template(answer, body[last + 1 :], tokenizer):
        return
    if tokenizer.eos_id is None:
        raise TokenizerError(
            "the tokenizer has no EOS token, so the model could never learn to stop; "
            "set eos_token in its tokenizer_config.json"
        )
    answer.append(tokenizer.eos_id)


def _ended_by_template(
    answer: Sequence[int], following: Sequence[Stretch], tokenizer: Tokenizer
) -> bool:
    """Say whether the template wrote an end token: in the answer's end, or right behind it.

    Behind it is where `{% generation %}` marks leave it out; what they say is learned holds.
    """
    written = (
        token
        for token in reversed(answer)
        if tokenizer.is_control(token) or tokenizer.decode([token]).strip()
    )
    end = next(written, None)
    if end is not None and tokenizer.ends_turn(end):
        return True
    behind = next((stretch.ids[0] for stretch in following if stretch.ids), None)
    return behind is not None and tokenizer.ends_turn(behind)
