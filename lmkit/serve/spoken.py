"""Find what of a prompt its record says, and what the task says around it.

A template's segments tell that already. A conversation comes out of its chat template as one text, so
it is rendered once more with a mark around each thing that was said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from lmkit.errors import LmkitError
from lmkit.formatting import Formatter, Record, Segment
from lmkit.tokenizing import Dialect

START, END = "\ue000", "\ue001"  # two of Unicode's characters for private use


def spoken(formatter: Formatter, record: Record, dialect: Dialect) -> list[tuple[Segment, bool]]:
    """Return a prompt's segments, cut so that each is the record's or the task's, with which it is.

    Where a template does something else to marked text, what its segments say is all there is to tell.

    Raises:
        RecordError: no prompt can be made of the record.
    """
    segments = formatter.prompt(record, dialect)
    inside = _inside(formatter, record, dialect, "".join(segment.text for segment in segments))
    found = []
    place = 0
    for segment in segments:
        for text, said in _runs(segment.text, inside[place : place + len(segment.text)]):
            found.append((attrs.evolve(segment, text=text), said or not segment.trusted))
        place += len(segment.text)
    return found


def _inside(formatter: Formatter, record: Record, dialect: Dialect, text: str) -> list[bool]:
    """Return of each character whether the record says it; of none where that cannot be told."""
    unknown = [False] * len(text)
    if START in text or END in text:
        return unknown
    marked = {name: _marked(content) for name, content in record.items()}
    try:
        written = "".join(segment.text for segment in formatter.prompt(marked, dialect))
    except LmkitError:
        return unknown
    if written.replace(START, "").replace(END, "") != text:
        return unknown
    inside, depth = [], 0
    for character in written:
        if character in (START, END):
            depth += 1 if character == START else -1
        else:
            inside.append(depth > 0)
    return inside


def _marked(content: Any) -> Any:
    """Return a column's content, or a message's, with marks around its words.

    >>> _marked(" hi ") == f" {START}hi{END} "
    True
    """
    if isinstance(content, str):
        words = content.strip()
        if not words:
            return content
        before, _, after = content.partition(words)
        return f"{before}{START}{words}{END}{after}"
    if isinstance(content, list):
        return [_marked(part) for part in content]
    if isinstance(content, dict):
        return {
            name: _marked(part) if name in ("content", "text") else part
            for name, part in content.items()
        }
    return content


def _runs(text: str, inside: Sequence[bool]) -> Iterator[tuple[str, bool]]:
    """Yield a text's longest pieces that are all inside or all outside."""
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or inside[place] != inside[start]:
            yield text[start:place], inside[start]
            start = place
    if not text:
        yield text, False
