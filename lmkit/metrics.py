"""Measure: answers against what the data says, as named numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lmkit.values import value


@runtime_checkable
class Metric(Protocol):
    """A figure over a whole data set."""

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return named numbers for N answers and their N references, in order."""


@value(kw_only=True)
class ExactMatch:
    """The share of answers that equal the reference, between 0 and 1.

    Both are compared in composed form (Unicode NFC), so that Hangul written in jamo counts as equal.

    Attributes:
        ignore_case: whether upper and lower case count as equal.

    >>> ExactMatch().score(["네", "no"], ["네", "yes"])
    {'exact_match': 0.5}
    """

    ignore_case: bool = False

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return `exact_match`."""
        pairs = list(zip(answers, references, strict=True))
        hits = sum(self._norm(answer) == self._norm(reference) for answer, reference in pairs)
        return {"exact_match": hits / len(pairs)}

    def _norm(self, answer: Any) -> str:
        text = unicodedata.normalize("NFC", str(answer)).strip()
        return text.casefold() if self.ignore_case else text
