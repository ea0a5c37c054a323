"""A collator: it wraps another one, of any family, and forgets some of what was to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.collating import Batch, Collator
from lmkit.encoding import IGNORE, Encoded, Ids, Whole
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.tokenizing import Tokenizer


@attrs.frozen
class Forgetful:
    """Every n-th label is not learned, but the last one of a row always is."""

    inner: Collator
    share: float = attrs.field(default=0.0, kw_only=True)

    @property
    def family(self) -> Family:
        """The inner collator's."""
        return self.inner.family

    @property
    def max_length(self) -> int:
        """The inner collator's."""
        return self.inner.max_length

    def encode(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> Encoded:
        """Return the inner collator's row with fewer labels."""
        row = self.inner.encode(segments, tokenizer, delimited=delimited)
        return attrs.evolve(row, labels=self._forgotten(row.labels))

    def whole(
        self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool
    ) -> list[Whole]:
        """Return what `encode` makes the row of."""
        wholes = self.inner.whole(segments, tokenizer, delimited=delimited)
        return [attrs.evolve(whole, labels=self._forgotten(whole.labels)) for whole in wholes]

    def prompt(self, segments: Sequence[Segment], tokenizer: Tokenizer, *, delimited: bool) -> Ids:
        """Return the inner collator's prompt."""
        return self.inner.prompt(segments, tokenizer, delimited=delimited)

    def within(self, most: int | None, target: int | None) -> Forgetful:
        """Return one whose rows a model can read."""
        return attrs.evolve(self, inner=self.inner.within(most, target))

    def feed(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Any:
        """Return the inner collator's feed."""
        return self.inner.feed(rows, tokenizer)

    def measured(self, rows: Sequence[Encoded], tokenizer: Tokenizer) -> Sequence[Encoded]:
        """Return the inner collator's."""
        return self.inner.measured(rows, tokenizer)

    def collate(self, rows: Sequence[Encoded], pad_id: int) -> Batch:
        """Return the inner collator's batch."""
        return self.inner.collate(rows, pad_id)

    def _forgotten(self, labels: Ids) -> Ids:
        learned = np.flatnonzero(labels != IGNORE)[:-1]
        every = round(1 / self.share) if self.share else len(labels) + 1
        kept = labels.copy()
        kept[learned[every - 1 :: every]] = IGNORE
        return kept
