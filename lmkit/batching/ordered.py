"""Answer many records in their order, each row going to the next record as soon as it is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmkit.answering import Answerer
from lmkit.answering.logits import HELD_FLOATS
from lmkit.batching.engine import Engine
from lmkit.batching.limits import Limits
from lmkit.batching.requests import Kind, made
from lmkit.batching.tickets import Ticket
from lmkit.decoding import Answer
from lmkit.formatting import Record
from lmkit.runtime.generator import Generator

_AHEAD = 4  # times the rows: so many records may be answered before the first of them is


def in_order(
    model: Answerer, records: Sequence[Record], options: Mapping[str, Any], *, batch_size: int
) -> Iterator[list[Answer]]:
    """Yield the answers to records, some at a time as they come, in the records' order.

    Causal text of a bundle goes through an engine; whatever else answers takes `batch_size` records
    after another.

    Args:
        model: a bundle or a run.
        records: the task's prompt columns.
        options: fields of `Generation`.
        batch_size: the most records at once.
    Raises:
        LmkitError: as a call does; of several wrong records, for the first.
    """
    if (
        records
        and isinstance(model, Generator)
        and made(model, records[0], options=options).kind is Kind.SLOT
    ):
        yield from _refilled(model, records, options, batch_size)
        return
    for start in range(0, len(records), batch_size):
        part = records[start : start + batch_size]
        yield model.batch(part, batch_size=batch_size, **options)


def _refilled(
    model: Generator, records: Sequence[Record], options: Mapping[str, Any], batch_size: int
) -> Iterator[list[Answer]]:
    waiting: deque[Ticket] = deque()
    most = _AHEAD * batch_size
    # As `Generator.batch` holds at once; and as there, what is larger is written by itself.
    limits = Limits(max_rows=batch_size, max_waiting=most, kv_bytes=4 * HELD_FLOATS)
    with Engine(model, limits=limits) as engine:
        for record in records:
            waiting.append(engine.submit(made(model, record, options=options)))
            if len(waiting) >= most:
                yield [waiting.popleft().wait()]
            while waiting and waiting[0].done:
                yield [waiting.popleft().wait()]
        while waiting:
            yield [waiting.popleft().wait()]
