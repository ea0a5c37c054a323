"""Stretches of a file's rows: which are answered, and which are still to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs


@attrs.frozen(order=True)
class Span:
    """Rows that follow each other.

    Attributes:
        first: the first one's index, from 0.
        count: how many there are.
    """

    first: int
    count: int

    @property
    def end(self) -> int:
        """The index behind the last row."""
        return self.first + self.count


def gaps(covered: Iterable[Span], *, first: int, end: int) -> list[Span]:
    """Return what some spans leave uncovered of the rows from `first` to `end`.

    >>> gaps([Span(8, 4), Span(2, 2)], first=1, end=20)
    [Span(first=1, count=1), Span(first=4, count=4), Span(first=12, count=8)]
    """
    found = []
    for span in sorted(covered):
        if span.first > first:
            found.append(Span(first, min(span.first, end) - first))
        first = max(first, span.end)
    if first < end:
        found.append(Span(first, end - first))
    return [gap for gap in found if gap.count > 0]


def cut(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """Yield spans of `size` rows at most that cover the same rows.

    >>> list(cut([Span(0, 5)], 2))
    [Span(first=0, count=2), Span(first=2, count=2), Span(first=4, count=1)]
    """
    for span in spans:
        for first in range(span.first, span.end, size):
            yield Span(first, min(size, span.end - first))
