"""What runs on the cluster: one process reads the input in parts, and workers answer them.

Between them go rows of a Ray Data set, one for each part. What fails for a reason that the user can mend
comes back as a value: an error that is raised on a cluster is tried again, and arrives wrapped.
"""

from __future__ import annotations

import collections
import itertools
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from lmkit.answering import Answerer
from lmkit.answering.lines import answered, dump
from lmkit.batching.ordered import in_order
from lmkit.cluster.spans import Span, cut
from lmkit.cluster.starting import beside
from lmkit.errors import LmkitError, ModelError, RecordError
from lmkit.records import Row, iterate

MOST_ATTEMPTS = 4

Table = Mapping[str, Sequence[Any]]


def read_parts(batch: Table, *, source: str, spans: Sequence[Span], size: int) -> Iterator[Table]:
    """Yield a file's rows in parts, as they are asked for.

    Args:
        batch: nothing; a data set must have something to begin with.
        source: a data source, as for `lmkit.records.iterate`.
        spans: which rows, in order.
        size: how many rows a part has at most.
    """
    rows: Iterator[Row] = iter(())
    at = None
    for span in cut(spans, size):
        try:
            if span.first != at:
                rows = map(_good, iterate(source, start=span.first))
            found: Any = list(itertools.islice(rows, span.count))
            at = span.end
            if len(found) < span.count:
                raise RecordError(
                    source, f"has {span.first + len(found)} records now, and had more"
                )
        except LmkitError as error:  # the rows were read once before, so the file has changed
            found = error
        yield {"first": [span.first], "rows": [pickle.dumps(found)]}


def _good(row: Row | LmkitError) -> Row:
    if isinstance(row, LmkitError):
        raise row
    return row


class Attempts:
    """Counts how often each part was begun: one that ends every worker it comes to must not go on."""

    def __init__(self) -> None:
        self._counts: collections.Counter[int] = collections.Counter()

    def begin(self, first: int) -> int:
        """Count an attempt at the part that begins with a row, and return how many there were."""
        self._counts[first] += 1
        return self._counts[first]


@attrs.frozen(kw_only=True)
class Work:
    """What a worker is to do with each part.

    Attributes:
        open_model: opens the model, once in each worker.
        options: fields of `Generation`.
        batch_size: how many records are answered at once.
    """

    open_model: Callable[[], Answerer]
    options: Mapping[str, Any]
    batch_size: int

    def lines(self, model: Answerer, rows: Sequence[Row]) -> Iterator[str]:
        """Yield each row's line of the output, as one process alone would write it."""
        rest = iter(rows)
        for answers in in_order(model, rows, self.options, batch_size=self.batch_size):
            for answer, row in zip(answers, rest, strict=False):
                yield dump(answered(row, answer))


class Worker:
    """An actor: it has the model open, and answers the parts that it is given."""

    def __init__(self, work: Work, begin: Callable[[int], int]) -> None:
        self._work = work
        self._begin = begin
        self._model: Answerer | None = None

    def __call__(self, batch: Table) -> Table:
        """Answer the parts of a batch; each comes out as its lines, or as the error that it ends in."""
        answers = [
            pickle.dumps(self._answer(int(first), pickle.loads(rows)))
            for first, rows in zip(batch["first"], batch["rows"], strict=True)
        ]
        return {"first": batch["first"], "answers": answers}

    def _answer(self, first: int, rows: list[Row] | LmkitError) -> list[str] | LmkitError:
        if isinstance(rows, LmkitError):
            return rows
        if self._begin(first) > MOST_ATTEMPTS:
            return ModelError(
                f"{rows[0].where} to {rows[-1].where}: {MOST_ATTEMPTS} workers ended while they "
                "answered these records, so they may need more memory than a node has; answer fewer "
                "at once with --batch-size, or with fewer --workers"
            )
        try:
            if self._model is None:
                self._model = self._work.open_model()
            return list(self._work.lines(self._model, rows))
        except LmkitError as error:
            if self._model is None:  # it opened where the run was started, so it is this node's
                error.args = (f"{error} (on the node {socket.gethostname()})",)
            return error


def attempts(ray: Any) -> Callable[[int], int]:
    """Start what counts attempts, and return a function that asks it, wherever it is called.

    It is on this process's own node, which is not lost unless all is.
    """
    counting = beside(ray, Attempts)

    def begin(first: int) -> int:
        import ray

        return int(ray.get(counting.begin.remote(first)))

    return begin


def first_of(table: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, list[str]]]:
    """Yield each part's first row and lines, as they come.

    Raises:
        LmkitError: what a worker failed with.
    """
    for row in table:
        found = pickle.loads(row["answers"])
        if isinstance(found, LmkitError):
            raise found
        yield int(row["first"]), found
