"""Evaluate: loss over learned tokens and the task's own metrics, for a run or a bundle alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmkit.answering import Answerer, open_answerer
from lmkit.answering.loss import Loss
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import RecordError, TaskError
from lmkit.family import Family
from lmkit.metrics import check_ready
from lmkit.mixing import Mixture, by_task
from lmkit.reading import stream_for
from lmkit.records import STOP, BadRows, Data, OnBadRow, Row, warn_of_skipped
from lmkit.registry import get_task
from lmkit.sources import Source
from lmkit.task import Task

EVAL_BATCH = 8
AT_ONCE = 8  # batches answered between two reports of progress
AT_ONCE_SCORED = 2048  # records in memory at once, those of like length in a batch

Progress = Callable[[int, int], None]


def evaluate(
    run: Any,
    *,
    data: Data | Mapping[str, Data],
    task: Task | str | None = None,
    batch_size: int = EVAL_BATCH,
    on_progress: Progress | None = None,
    on_bad_row: str = STOP,
) -> dict[str, float]:
    """Measure a run or a bundle on records that have their answers.

    Records of a file are read and scored some at a time, so there may be more than memory holds.

    Args:
        run: a Run, a bundle, the path of either, or a model that is already open; with `task` any
            model.
        data: as for `train`; for a run that learned a mixture, a mapping from its tasks' names.
        task: which of a mixture's tasks to measure, or the task itself where the run has lost a part
            of it, or what a model is to do.
        batch_size: rows in one forward pass.
        on_progress: called with (rows done, rows in all), first for the loss, and anew while records
            are answered for the metrics.
        on_bad_row: `stop` gathers up to ten records that cannot be read or do not fit, and raises
            them; `skip` leaves them out, with a warning, and counts them as `skipped`.
    Returns:
        `loss` (nats per learned token), `perplexity`, `tokens`, `records`, and the figures of the
        task's metrics, for which every record is answered greedily. Of several tasks each figure is
        there as `<task>_<figure>`, and the loss over all.
    Raises:
        RecordError: the data does not fit the task, or nothing in it is learned.
        MissingExtra: a metric of the task's needs a package that is not installed; it is raised
            before anything is measured.
    """
    if isinstance(data, Mapping):
        return _evaluate_each(run, data, batch_size, on_progress, on_bad_row)
    model = open_answerer(run, task)
    check_ready(model.task.metrics)
    measured = _Measured(model, data, batch_size, on_progress, on_bad_row)
    return {**measured.figures(), **measured.skipped()}


class _Measured:
    """One task's figures over its data, of which some records at a time are in memory.

    Args:
        model: what is measured.
        data: records with their answers.
        batch_size: rows in one forward pass.
        on_progress: see `evaluate`.
        on_bad_row: likewise.
    Raises:
        RecordError: the data does not fit the task, or nothing in it is learned.
    """

    def __init__(
        self,
        model: Answerer,
        data: Data,
        batch_size: int,
        on_progress: Progress | None,
        on_bad_row: str,
    ) -> None:
        self._model, self._batch_size, self._on_progress = model, batch_size, on_progress
        self._one_text = isinstance(model.task.collator, Stream)
        # What is hidden in a masked row depends on its place among all.
        self._at_once = self._one_text or model.task.family is Family.MASKED
        self._source = Source.open(data, whole=self._one_text)
        self._total = len(self._source)
        self._bad = BadRows(on_bad_row)
        self._unfit: set[str] = set()
        self.loss, self.n_records = Loss(), 0
        if not self._bad.skips and self._total > AT_ONCE_SCORED:
            self._check()  # a bad row late in a file is told before the first is scored
        self._score()
        self._bad.end()
        warn_of_skipped(self._source.name, self._bad.errors)
        if not self.loss.count:
            raise RecordError(self._source.name, "no row has anything to learn")

    def figures(self) -> dict[str, float]:
        """Return the loss and the metrics; records are answered now if there are metrics."""
        return {**self.loss.figures(), "records": self.n_records, **self._metrics()}

    def skipped(self) -> dict[str, int]:
        """Return how many records were left out, where they may be."""
        return {"skipped": len(self._bad.errors)} if self._bad.skips else {}

    def _check(self) -> None:
        rows = stream_for(self._model.task, self._source, self._bad)
        for _ in encode_rows(self._model.task, rows, self._model.tokenizer, on_bad_row=self._bad):
            pass
        self._bad.end()

    def _score(self) -> None:
        done = 0
        for rows in self._parts(None if self._at_once else AT_ONCE_SCORED, self._tell):
            encoded = list(
                encode_rows(self._model.task, rows, self._model.tokenizer, on_bad_row=self._tell)
            )
            self.n_records += sum(row.where not in self._unfit for row in rows)
            if not encoded or (self._bad.errors and not self._bad.skips):
                continue
            measured = self._model.task.collator.measured(encoded, self._model.tokenizer)
            total = len(measured) if self._one_text else self._total
            scored = 0
            for batch in batches_by_length(measured, self._batch_size):
                self.loss += self._model.score(batch)
                scored += len(batch)
                share = scored if self._one_text else round(len(rows) * scored / len(measured))
                self._progress(done + share, total)
            done += len(rows)

    def _metrics(self) -> dict[str, float]:
        task = self._model.task
        if not task.metrics:
            return {}
        model = self._model.with_task(cutting(task))  # a row that was cut in training counts, too
        answers: list[Any] = []
        references: list[Any] = []
        # Of several batches those of like length are answered together.
        for part in self._parts(AT_ONCE * self._batch_size, lambda error: None):
            rows = [row for row in part if row.where not in self._unfit]
            found, expected = answered(model, rows, self._batch_size)
            answers += found
            references += expected
            self._progress(len(answers), self.n_records)
        figures: dict[str, float] = {}
        for metric in task.metrics:
            figures |= metric.score(answers, references)
        return figures

    def _parts(self, size: int | None, tell: OnBadRow) -> Iterator[list[Row]]:
        """Yield the records, so many at a time, or all together."""
        rows = stream_for(self._model.task, self._source, tell)
        while part := list(itertools.islice(rows, size)):
            yield part

    def _tell(self, error: RecordError) -> None:
        self._unfit.add(error.where)
        self._bad(error)

    def _progress(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)


def answered(
    model: Answerer, rows: Sequence[Row], batch_size: int = EVAL_BATCH
) -> tuple[list[Any], list[Any]]:
    """Return the values of greedy answers to records, and what they are compared with."""
    task = model.task
    options: dict[str, Any] = {"temperature": 0.0} if task.writes else {}
    found = model.batch(rows, batch_size=batch_size, **options) if rows else []
    references = [task.reference(row, model.tokenizer.dialect) for row in rows]
    return [answer.value for answer in found], references


def measure(
    model: Answerer,
    rows: Sequence[Row],
    *,
    name: str,
    batch_size: int = EVAL_BATCH,
    on_progress: Progress | None = None,
) -> Loss:
    """Return the loss over the learned tokens of records that are transformed already.

    Raises:
        RecordError: they do not fit the task, or nothing in them is learned.
    """
    own = list(encode_rows(model.task, rows, model.tokenizer))
    encoded = model.task.collator.measured(own, model.tokenizer)
    loss, done = Loss(), 0
    for batch in batches_by_length(encoded, batch_size):
        loss += model.score(batch)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(encoded))
    if not loss.count:
        raise RecordError(name, "no row has anything to learn")
    return loss


def batches_by_length(rows: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Yield rows of like length together, so that little is padded; the sum does not mind."""
    by_length = sorted(rows, key=len)
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def _evaluate_each(
    run: Any,
    data: Mapping[str, Data],
    batch_size: int,
    on_progress: Progress | None,
    on_bad_row: str,
) -> dict[str, float]:
    """Measure each task of a run's mixture on its own data."""
    mixture = _mixture_of(run)
    sources = list(by_task(mixture, data, option="data", all_=False))
    for task, source in zip(mixture.tasks, sources, strict=True):
        if source is not None:
            check_ready(task.metrics)
    figures: dict[str, float] = {}
    total, n_records, n_skipped = Loss(), 0, 0
    skips = {}
    model: Any = open_answerer(run, mixture.tasks[0].name)
    for task, source in zip(mixture.tasks, sources, strict=True):
        if source is None:
            continue
        model = model.with_task(task)
        measured = _Measured(model, source, batch_size, on_progress, on_bad_row)
        total += measured.loss
        n_records += measured.n_records
        n_skipped += measured.skipped().get("skipped", 0)
        skips = {"skipped": n_skipped} if measured.skipped() else {}
        figures |= {f"{task.name}_{key}": figure for key, figure in measured.figures().items()}
    return {**figures, **total.figures(), "records": n_records, **skips}


def _mixture_of(run: Any) -> Mixture:
    path = Path(run)
    found = get_task(path / "task.json") if (path / "task.json").is_file() else None
    if not isinstance(found, Mixture):
        raise TaskError(
            f"data is a mapping, as for a mixture of tasks, and '{path}' is no run that learned one"
        )
    return found
