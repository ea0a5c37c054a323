"""Evaluate: loss over learned tokens and the task's own metrics, for a run or a bundle alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmkit.answering import Answerer, open_answerer
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import RecordError, TaskError
from lmkit.loss import Loss
from lmkit.metrics import check_ready
from lmkit.mixing import Mixture, by_task
from lmkit.reading import read_for
from lmkit.records import Data, Row, name_of
from lmkit.registry import get_task
from lmkit.task import Task

EVAL_BATCH = 8
AT_ONCE = 8  # batches answered between two reports of progress

Progress = Callable[[int, int], None]


def evaluate(
    run: Any,
    *,
    data: Data | Mapping[str, Data],
    task: Task | str | None = None,
    batch_size: int = EVAL_BATCH,
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Measure a run or a bundle on records that have their answers.

    Args:
        run: a Run, a bundle, the path of either, or a model that is already open; with `task` any
            model.
        data: as for `train`; for a run that learned a mixture, a mapping from its tasks' names.
        task: which of a mixture's tasks to measure, or the task itself where the run has lost a part
            of it, or what a model is to do.
        batch_size: rows in one forward pass.
        on_progress: called with (rows done, rows in all), first for the loss, and anew while records
            are answered for the metrics.
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
        return _evaluate_each(run, data, batch_size, on_progress)
    model = open_answerer(run, task)
    check_ready(model.task.metrics)
    rows = read_for(model.task, data)
    loss = measure(model, rows, name=name_of(data), batch_size=batch_size, on_progress=on_progress)
    found = _metric_figures(model, rows, batch_size, on_progress)
    return {**loss.figures(), "records": len(rows), **found}


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
    encoded = list(encode_rows(model.task, rows, model.tokenizer))
    encoded = model.task.collator.measured(encoded, model.tokenizer)
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
    run: Any, data: Mapping[str, Data], batch_size: int, on_progress: Progress | None
) -> dict[str, float]:
    """Measure each task of a run's mixture on its own data."""
    mixture = _mixture_of(run)
    sources = list(by_task(mixture, data, option="data", all_=False))
    for task, source in zip(mixture.tasks, sources, strict=True):
        if source is not None:
            check_ready(task.metrics)
    figures: dict[str, float] = {}
    total, n_records = Loss(), 0
    model: Any = open_answerer(run, mixture.tasks[0].name)
    for task, source in zip(mixture.tasks, sources, strict=True):
        if source is None:
            continue
        model = model.with_task(task)
        name = name_of(source)
        rows = read_for(task, source)
        loss = measure(model, rows, name=name, batch_size=batch_size, on_progress=on_progress)
        total += loss
        n_records += len(rows)
        own = {
            **loss.figures(),
            "records": len(rows),
            **_metric_figures(model, rows, batch_size, on_progress),
        }
        figures |= {f"{task.name}_{key}": figure for key, figure in own.items()}
    return {**figures, **total.figures(), "records": n_records}


def _mixture_of(run: Any) -> Mixture:
    path = Path(run)
    found = get_task(path / "task.json") if (path / "task.json").is_file() else None
    if not isinstance(found, Mixture):
        raise TaskError(
            f"data is a mapping, as for a mixture of tasks, and '{path}' is no run that learned one"
        )
    return found


def _metric_figures(
    model: Answerer, rows: Sequence[Row], batch_size: int, on_progress: Progress | None
) -> dict[str, float]:
    if not model.task.metrics:
        return {}
    model = model.with_task(cutting(model.task))  # a row that was cut in training counts, too
    dialect = model.tokenizer.dialect
    references = [model.task.reference(row, dialect) for row in rows]
    options: dict[str, Any] = {"temperature": 0.0} if model.task.writes else {}
    answers: list[Any] = []
    several = AT_ONCE * batch_size  # of which those of like length are answered together
    for start in range(0, len(rows), several):
        found = model.batch(rows[start : start + several], batch_size=batch_size, **options)
        answers += [answer.value for answer in found]
        if on_progress is not None:
            on_progress(len(answers), len(rows))
    figures: dict[str, float] = {}
    for metric in model.task.metrics:
        figures |= metric.score(answers, references)
    return figures
