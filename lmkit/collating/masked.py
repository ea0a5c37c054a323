"""Rows for a masked model: one text, some tokens of which are hidden and predicted in place."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.collating import Batch, shorter, text_batch
from lmkit.collating.chance import Keys, Uniforms, row_keys, uniforms
from lmkit.collating.cutting import RIGHT, fitted
from lmkit.encoding import IGNORE, Encoded, Ids, Whole, joined, learnable, owners, stretches
from lmkit.errors import RecordError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing import Span, Tokenizer
from lmkit.tokenizing.words import Words
from lmkit.validators import FLAG, as_float, as_int, at_least, number
from lmkit.values import value

# Of the tokens that are chosen, so many become the mask token, and so many any other one; the rest
# stay as they are. Source: Devlin et al. 2019, BERT, section 3.1.
MASKED, REPLACED = 0.8, 0.1

FIRST_DIGITS = 2.0**26  # a float64's fraction has twice as many bits

MEASURED = 0x1A5C  # the seed of the masks that a loss is measured with, whatever a run's seed is


@value
class MaskedCollator:
    """Rows for a model that predicts hidden tokens.

    A row is framed as its tokenizer frames any text ([CLS] ... [SEP]), and loses ids from the right
    where it is too long, unless its segments say what of them may go (`Template.cut`). Of its tokens
    a share is chosen, anew in every epoch; of those, 80% become the mask token, 10% another token,
    and 10% stay. Control tokens are never chosen, nor put in.

    Attributes:
        max_length: the most tokens in a row.
        mlm_probability: the share of tokens, or of words, that is chosen.
        whole_word: whether all tokens of a word are chosen together; see `lmkit.tokenizing.words`.
        pad_to_multiple_of: pad a batch to a multiple of this many tokens.
        pad_to_max_length: pad every batch to `max_length`, so that all have one shape.
    """

    max_length: int = attrs.field(default=512, converter=as_int, validator=at_least(3))
    mlm_probability: float = attrs.field(
        default=0.15,
        converter=as_float,
        validator=number("a number above 0 and up to 1", lambda share: 0 < share <= 1),
    )
    whole_word: bool = attrs.field(default=False, validator=FLAG)
    pad_to_multiple_of: int = attrs.field(default=1, converter=as_int, validator=at_least(1))
    pad_to_max_length: bool = attrs.field(default=False, validator=FLAG)

    family = Family.MASKED

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return one row, cut to `max_length`, with a label wherever a token may be hidden.

        A text without any such token, such as one that the tokenizer does not know, has no label.

        Raises:
            TokenizerError: the tokenizer has no mask token.
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
        mask_of(tokenizer)
        body = joined(stretches(segments, tokenizer))
        opening, closing = _frame(body, tokenizer, delimited=delimited)
        ids = np.asarray([*opening, *body, *closing], dtype=np.int64)
        kept = np.ones(len(ids), dtype=np.bool_)
        kept[len(opening) : len(ids) - len(closing)] = fitted(
            segments,
            lambda: np.concatenate(owners(segments, tokenizer)),
            len(body),
            max(0, self.max_length - len(opening) - len(closing)),
            unsaid=[RIGHT] * len(segments),
        )
        labels = np.where(np.isin(ids, tokenizer.control_ids), IGNORE, ids)
        return Whole(ids, labels, kept)

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the ids of a text to be filled, int64 [P]; it is never cut.

        The mask token acts in it although a record's text is not trusted; no other one does.

        Raises:
            RecordError: there is no mask token in it.
            TokenizerError: the tokenizer has none.
        """
        mask_id, mask = mask_of(tokenizer), tokenizer.special["mask_token"]
        body = tokenizer.encode_spans(_acting(segments, mask), opens=True)
        if mask_id not in body:
            raise RecordError("", f"there is nothing to fill: put {mask} where a token is wanted")
        opening, closing = _frame(body, tokenizer, delimited=delimited)
        return np.asarray([*opening, *body, *closing], dtype=np.int64)

    def within(self, most: int | None, target: int | None) -> MaskedCollator:
        """Return a collator whose rows have at most so many tokens."""
        return attrs.evolve(self, max_length=shorter(self.max_length, most))

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> MaskedFeed:
        """Return what hides other tokens in every epoch; rows with nothing to hide are left out."""
        return self._feed(rows, tokenizer, some=False)

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> list[Encoded]:
        """Return the rows with tokens hidden, the same ones each time and one at least in each."""
        feed = self._feed(rows, tokenizer, some=True)
        return feed.draw_all(range(len(feed)), row_keys(MEASURED, 0, range(len(feed))))

    def _feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer, *, some: bool) -> MaskedFeed:
        return MaskedFeed(
            learnable(rows),
            mask_id=mask_of(tokenizer),
            others=np.asarray(tokenizer.plain_ids, dtype=np.int64),
            share=self.mlm_probability,
            words=Words(tokenizer) if self.whole_word else None,
            some=some,
        )

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Right-pad rows to the longest one.

        Args:
            rows: B rows.
            pad_id: the id for empty cells, which are never learned.
        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 [B, T].
        """
        width = self.max_length if self.pad_to_max_length else 0
        return text_batch(rows, pad_id, multiple_of=self.pad_to_multiple_of, width=width)


class MaskedFeed:
    """Rows in which tokens are hidden when they are drawn.

    Args:
        rows: as `MaskedCollator.encode` makes them, each with a label.
        mask_id: the mask token.
        others: int64 [N], the tokens that may stand for another one.
        share: the share of tokens or words that is chosen.
        words: what finds words, if they are hidden whole.
        some: whether a row in which nothing is chosen gets one token or word all the same, so that
            each row counts; it makes the share of short rows larger.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        *,
        mask_id: int,
        others: Ids,
        share: float,
        words: Words | None,
        some: bool,
    ) -> None:
        self._rows = rows
        self._mask_id = mask_id
        self._others = others
        self._share = share
        self._words = words
        self._some = some

    def __len__(self) -> int:
        return len(self._rows)

    def draw(self, index: int, rng: np.random.Generator) -> Encoded:
        """Return a row with tokens hidden, and labels at those tokens alone.

        Each token (or word) is chosen with the same probability, as in transformers'
        DataCollatorForLanguageModeling, so of a short row there may be none.
        """
        row = self._rows[index]
        return self._hidden([row], rng.random(len(row)))[0]

    def draw_all(self, indices: Sequence[int], keys: Keys) -> list[Encoded]:
        """Return some rows, each with tokens hidden as its key says; see `draw`."""
        rows = [self._rows[index] for index in indices]
        lengths = np.array([len(row.input_ids) for row in rows], dtype=np.int64)
        return self._hidden(rows, uniforms(keys, lengths))

    def _hidden(self, rows: Sequence[Encoded], drawn: Uniforms) -> list[Encoded]:
        """Return B rows with tokens hidden, given a number for each of their tokens, float64 [T].

        A number decides both: its first digits whether a token is chosen, its last what becomes of it.
        """
        if not rows:
            return []
        ids = np.concatenate([row.input_ids for row in rows])
        learnable = np.concatenate([row.labels for row in rows])
        ends = np.cumsum([len(row.input_ids) for row in rows])
        starts = np.concatenate([[0], ends[:-1]])
        chosen = self._chosen(ids, learnable != IGNORE, drawn, starts)
        fate = drawn[chosen] * FIRST_DIGITS % 1
        labels = np.full_like(learnable, IGNORE)
        labels[chosen] = learnable[chosen]
        ids[chosen[fate < MASKED]] = self._mask_id
        replaced = fate >= 1 - REPLACED
        which = (fate[replaced] - (1 - REPLACED)) / REPLACED  # uniform again, in [0, 1)
        ids[chosen[replaced]] = self._others[(which * len(self._others)).astype(np.int64)]
        return [
            Encoded(ids[start:end], labels[start:end], row.n_cut, Family.MASKED)
            for row, start, end in zip(rows, starts.tolist(), ends.tolist(), strict=True)
        ]

    def _chosen(
        self, ids: Ids, may: NDArray[np.bool_], drawn: Uniforms, starts: NDArray[np.int64]
    ) -> Ids:
        """Return the places of the tokens that are chosen, int64 [M], of rows that start at `starts`."""
        places = np.flatnonzero(may)
        deciding = drawn[places]
        if self._words is not None:  # a word's first token decides
            word = self._words.number(ids, may, starts)
            deciding = deciding[np.flatnonzero(np.diff(word, prepend=-1))][word]
        picked = deciding < self._share
        if self._some:
            row = np.searchsorted(starts, places, side="right") - 1
            least = np.full(len(starts), 1.0)
            np.minimum.at(least, row, deciding)
            picked |= deciding == least[row]
        return places[picked]


def mask_of(tokenizer: Tokenizer) -> int:
    """Return the mask token's id.

    Raises:
        TokenizerError: there is none.
    """
    if tokenizer.mask_id is None:
        raise TokenizerError(
            "the tokenizer has no mask token, so nothing can be hidden or filled; set mask_token in "
            "its tokenizer_config.json, or add one: tokenizer.with_special('mask_token', '[MASK]')"
        )
    return tokenizer.mask_id


def _frame(
    body: Sequence[int], tokenizer: Tokenizer, *, delimited: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids before and after a text, less those that it brings itself."""
    opening, closing = tokenizer.opening_ids, tokenizer.closing_ids
    if delimited:
        return (), ()
    if body and opening and body[0] == opening[-1]:
        opening = opening[:-1]
    if body and closing and body[-1] == closing[0]:
        closing = closing[1:]
    return opening, closing


def _acting(segments: Sequence[Segment], mask: str) -> list[Span]:
    """Return the segments as spans in which the mask token acts, trusted or not."""
    spans: list[Span] = []
    for segment in segments:
        parts = [segment.text] if segment.trusted else segment.text.split(mask)
        for index, part in enumerate(parts):
            if index:
                spans.append(Span(mask, trusted=True))
            spans.append(Span(part, segment.trusted))
    return spans
