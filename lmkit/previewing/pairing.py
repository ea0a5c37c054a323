"""Pair: each record with the rows that it became."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import RecordError
from lmkit.formatting import Record, training_texts
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

Pair = tuple[int, Record, Sequence[Encoded]]
Bad = Callable[[RecordError], None]

_CHUNK = 256  # records encoded at once


def encoded_pairs(
    task: Task, records: Sequence[Record], tokenizer: Tokenizer, on_bad_row: Bad
) -> Iterator[Pair]:
    """Yield each record's place, the record, and the rows that it becomes; unfit ones are told of.

    Records are encoded by the chunk. Where a chunk has not as many rows as records, some are unfit, or
    became several rows, and each is encoded by itself.
    """
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        unfit: list[RecordError] = []
        rows = list(encode_rows(task, chunk, tokenizer, on_bad_row=unfit.append))
        if not unfit and len(rows) == len(chunk):
            for place, (record, row) in enumerate(zip(chunk, rows, strict=True), start):
                yield place, record, [row]
            continue
        for place, record in enumerate(chunk, start):
            if own := list(encode_rows(task, [record], tokenizer, on_bad_row=on_bad_row)):
                yield place, record, own


def known_pairs(
    task: Task, records: Sequence[Record], rows: Sequence[Encoded], tokenizer: Tokenizer
) -> Iterator[Pair]:
    """Yield the same for rows that are encoded already."""
    if len(rows) == len(records):
        for place, (record, row) in enumerate(zip(records, rows, strict=True)):
            yield place, record, [row]
        return
    taken = 0
    for place, record in enumerate(records):
        try:
            count = len(training_texts(task.formatter, record, tokenizer.dialect))
        except RecordError:  # it was left out
            continue
        yield place, record, [rows[at] for at in range(taken, taken + count)]
        taken += count
