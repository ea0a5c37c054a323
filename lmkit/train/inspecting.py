"""Inspect: what is about to be learned is looked at, shown, and refused where it is wrong.

It is what `lmkit preview` does, of rows that are encoded already: each is looked at once, and the
checks that render a record anew take a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lmkit.collating import Stream
from lmkit.encoding import Encoded
from lmkit.errors import FindingsError
from lmkit.previewing import Finding, Preview
from lmkit.previewing.looking import look
from lmkit.previewing.pairing import known_pairs
from lmkit.records import where_of
from lmkit.tokenizing import Tokenizer
from lmkit.train.lessons import Lesson
from lmkit.train.preparing.prepared import Counts, counts_of

SAMPLE = 256  # records that are rendered anew, from all over the data


def inspected(lessons: Sequence[Lesson], tokenizer: Tokenizer, *, model: str) -> list[Preview]:
    """Return a preview of each lesson, which is encoded."""
    return [
        look(
            lesson.task,
            lesson.rows,
            tokenizer,
            encoded=(lesson.encoded, _positions(lesson, lesson.encoded)),
            measured=_measured(lesson),
            rows=1,
            stride=max(1, len(lesson.rows) // SAMPLE),
            data=lesson.name,
            model=model,
        )
        for lesson in lessons
    ]


def _positions(lesson: Lesson, rows: Sequence[Encoded]) -> Counts:
    """Return for each row the position of its record, int64 [N]."""
    if isinstance(lesson.task.collator, Stream):  # its rows are of all records
        return np.zeros(len(rows), dtype=np.int64)
    return counts_of(rows, "position")


def _measured(lesson: Lesson) -> Iterator[tuple[str, Encoded]]:
    pairs = known_pairs(
        lesson.task, lesson.eval_rows, lesson.eval_encoded, _positions(lesson, lesson.eval_encoded)
    )
    for index, record, rows in pairs if lesson.eval_rows else ():
        for row in rows:
            yield where_of(record, index), row


def check_findings(previews: Sequence[Preview]) -> None:
    """Refuse data in which something is wrong.

    Raises:
        FindingsError: the text has each such finding, an example, and the remedy.
    """
    found = [f for preview in previews for f in preview.findings if f.level == "error"]
    if found:
        text = "\n".join(["the data would teach something wrong", *map(_told, found)])
        raise FindingsError(
            f"{text}\n  'lmkit preview' shows the rows; --ignore-findings (ignore_findings=True) "
            "trains all the same",
            [finding.name for finding in found],
        )


def _told(finding: Finding) -> str:
    place = f", such as {finding.where}" if finding.where else ""
    excerpt = f": {finding.excerpt}" if finding.excerpt else ""
    return (
        f"  {finding.name}: {finding.count:,} of {finding.of:,} rows{place}{excerpt}\n"
        f"    {finding.text}\n    {finding.remedy}"
    )


def show(previews: Sequence[Preview]) -> None:
    """Print each task's first row and its findings on standard error."""
    from rich.console import Console

    from lmkit.previewing.printing import print_first

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=120)
    for preview in previews:
        print_first(preview, console)
