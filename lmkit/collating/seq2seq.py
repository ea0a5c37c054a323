"""Rows for a seq2seq model: a source that it reads and a target that it learns to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from lmkit.collating import Batch, RowFeed, padded, shorter
from lmkit.collating.cutting import RIGHT, fitted
from lmkit.encoding import IGNORE, Encoded, Ids, Whole
from lmkit.errors import RecordError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing import Span, Tokenizer
from lmkit.validators import FLAG, as_int, at_least
from lmkit.values import value

if TYPE_CHECKING:
    from lmkit.task import Task


@value
class Seq2SeqCollator:
    """Rows for an encoder-decoder: the context is the source, the target is what it learns.

    Source and target are two texts, each framed as the tokenizer itself frames one: `[CLS] ... [SEP]`,
    `... </s>`, or `</s>` and a language behind it. A target whose frame lacks the EOS gets it. A source
    that is too long loses ids from its right, a target too, unless their segments say what of them may
    go (`Template.cut`); what closes them always stays.

    Of a conversation the last answer is the target, and all that is said before it the source.

    Attributes:
        max_source_length: the most tokens of a source.
        max_target_length: the most tokens of a target.
        pad_to_multiple_of: pad sources and targets to a multiple of this many tokens.
        pad_to_max_length: pad every batch to both lengths, so that all have one shape.
        cut_prompt: whether a prompt that is too long is cut as in training, rather than refused.
    """

    max_source_length: int = attrs.field(default=512, converter=as_int, validator=at_least(2))
    max_target_length: int = attrs.field(default=128, converter=as_int, validator=at_least(2))
    pad_to_multiple_of: int = attrs.field(default=1, converter=as_int, validator=at_least(1))
    pad_to_max_length: bool = attrs.field(default=False, validator=FLAG)
    cut_prompt: bool = attrs.field(default=False, validator=FLAG)

    family = Family.SEQ2SEQ

    @property
    def max_length(self) -> int:
        """The most tokens of a source, which is a row's length."""
        return self.max_source_length

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return one training row: the source's ids, and the target's as its labels.

        Raises:
            RecordError: there is no target, or the source has no token.
            TokenizerError: the tokenizer has no EOS with which to end the target.
        """
        source, target = self.whole(segments, tokenizer, delimited=delimited)
        return Encoded(
            source.input_ids[source.kept],
            target.labels[target.kept],
            source.n_cut + target.n_cut,
            self.family,
            n_cut_learned=target.n_cut_learned,
        )

    def whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> list[Whole]:
        """Return source and target before they are cut; raises what `encode` does."""
        source, target = _parted(segments)
        closed = _framed(target, tokenizer, delimited=delimited, ends=True)
        return [
            self._source(source, tokenizer, delimited=delimited),
            _cut(closed, target, tokenizer, self.max_target_length, learn=True),
        ]

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the source's ids, int64 [S].

        Raises:
            RecordError: it is longer than what the model was trained to read, and not to be cut.
        """
        source = self._source(segments, tokenizer, delimited=delimited)
        if source.n_cut and not self.cut_prompt:
            raise RecordError(
                "",
                f"its source has {len(source.input_ids)} tokens, and the task reads "
                f"{self.max_source_length}; shorten it, raise max_source_length if the model reads "
                "more, or have sources cut as in training with Seq2SeqCollator(cut_prompt=True)",
            )
        return source.input_ids[source.kept]

    def within(self, most: int | None, target: int | None) -> Seq2SeqCollator:
        """Return a collator whose sources and targets have at most so many tokens."""
        return attrs.evolve(
            self,
            max_source_length=shorter(self.max_source_length, most),
            max_target_length=shorter(self.max_target_length, target),
        )

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> RowFeed:
        """Return the rows, the same in every epoch."""
        return RowFeed(rows)

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Sequence[Encoded]:
        """Return the rows as they are."""
        return rows

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Right-pad sources to the longest source and targets to the longest target.

        The model makes its decoder's input of the labels, so there is none here.

        Args:
            rows: B rows.
            pad_id: the id for empty cells of a source; a label's are ignored by their place.
        Returns:
            `input_ids` and `attention_mask`, int64 [B, S], and `labels`, int64 [B, L].

        >>> row = Encoded(np.array([5, 6, 1]), np.array([7, 1]), family=Family.SEQ2SEQ)
        >>> batch = Seq2SeqCollator(pad_to_multiple_of=4).collate([row], pad_id=0)
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 1, 0]], [[7, 1, -100, -100]])
        """
        whole, multiple = self.pad_to_max_length, self.pad_to_multiple_of
        input_ids, mask = padded(
            [row.input_ids for row in rows],
            pad_id,
            multiple_of=multiple,
            width=self.max_source_length if whole else 0,
        )
        labels, _ = padded(
            [row.labels for row in rows],
            IGNORE,
            multiple_of=multiple,
            width=self.max_target_length if whole else 0,
        )
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def _source(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Whole:
        framed = _framed(segments, tokenizer, delimited=delimited)
        if not any(map(len, framed)):
            raise RecordError("", "its source is empty, so there is nothing to read")
        return _cut(framed, segments, tokenizer, self.max_source_length, learn=False)


def cutting(task: Task) -> Task:
    """Return the task with prompts that are cut as its training rows are.

    A seq2seq task refuses a source that is too long; where all rows of a data set are to be measured,
    or compared, each is read as far as in training.
    """
    collator = task.collator
    if isinstance(collator, Seq2SeqCollator) and not collator.cut_prompt:
        return task.evolve(collator=attrs.evolve(collator, cut_prompt=True))
    return task


def _parted(segments: Sequence[Segment]) -> tuple[Sequence[Segment], Sequence[Segment]]:
    """Return what is read and what is learned: the last answer, and all before it."""
    learned = [index for index, segment in enumerate(segments) if segment.learn]
    if not learned:
        raise RecordError("", "nothing in it is learned: it has no target")
    first = last = learned[-1]
    while first and segments[first - 1].learn:
        first -= 1
    return segments[:first], segments[first : last + 1]


# What opens a text, the text itself, and what closes it.
_Framed = tuple[tuple[int, ...], list[int], tuple[int, ...]]


def _framed(
    segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool, ends: bool = False
) -> _Framed:
    """Return a text in the tokenizer's frame, of which it may have spelled out a part itself.

    Args:
        segments: the text.
        tokenizer: what frames it.
        delimited: whether the text brings its own frame.
        ends: whether it must end in the EOS.
    """
    ids = tokenizer.encode_spans(_spans(segments), opens=True)
    opening = () if delimited else tokenizer.opening_ids
    closing = () if delimited else tokenizer.closing_ids
    if opening and ids[:1] == [opening[-1]]:
        opening = opening[:-1]
    if closing and ids[-1:] == [closing[0]]:
        ids = ids[:-1]
    if ends:
        ids, closing = _ended(ids, closing, tokenizer, delimited=delimited)
    return opening, ids, closing


def _ended(
    ids: list[int], closing: tuple[int, ...], tokenizer: Tokenizer, *, delimited: bool
) -> tuple[list[int], tuple[int, ...]]:
    """Return a target and what closes it, which has the token that stops generation."""
    if delimited and ids and tokenizer.ends_turn(ids[-1]):
        return ids[:-1], (ids[-1],)
    eos = tokenizer.eos_id
    if closing and (eos is None or eos in closing):  # BERT's has no EOS, and closes with [SEP]
        return ids, closing
    if eos is None:
        raise TokenizerError(
            "the tokenizer has no EOS token, so the model could never learn to stop; "
            "set eos_token in its tokenizer_config.json"
        )
    return (ids[:-1] if ids[-1:] == [eos] else ids), (*closing, eos)


def _cut(
    framed: _Framed, segments: Sequence[Segment], tokenizer: Tokenizer, most: int, *, learn: bool
) -> Whole:
    """Return a text that is cut within its frame, from its right where its segments do not say."""
    opening, body, closing = framed
    ids = np.asarray([*opening, *body, *closing], dtype=np.int64)
    kept = np.ones(len(ids), dtype=np.bool_)
    kept[len(opening) : len(ids) - len(closing)] = fitted(
        segments,
        lambda: tokenizer.owners(_spans(segments), opens=True)[: len(body)],
        len(body),
        max(0, most - len(opening) - len(closing)),
        unsaid=[RIGHT] * len(segments),
    )
    return Whole(ids, ids if learn else np.full_like(ids, IGNORE), kept)


def _spans(segments: Sequence[Segment]) -> list[Span]:
    return [
        Span(segment.text, segment.trusted, segment.learn and not segment.quoted)
        for segment in segments
    ]
