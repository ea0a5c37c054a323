"""Evaluate: loss over learned tokens and the task's own metrics, for a run or a bundle alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lmkit.answering import Answerer, open_answerer
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.decoding import Chooser, Filler
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import RecordError
from lmkit.loss import Loss
from lmkit.records import Data, Row, name_of, read

EVAL_BATCH = 8


def evaluate(
    run: Any,
    *,
    data: Data,
    batch_size: int = EVAL_BATCH,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Measure a run or a bundle on records that have their answers.

    Args:
        run: a Run, a bundle, the path of either, or a model that is already open.
        data: as for `train`.
        batch_size: rows in one forward pass.
        on_progress: called with (rows done, rows in all).
    Returns:
        `loss` (nats per learned token), `perplexity`, `tokens`, `records`, and the figures of the
        task's metrics, for which every record is answered greedily.
    Raises:
        RecordError: the data does not fit the task, or nothing in it is learned.
    """
    model = open_answerer(run)
    rows = read(data, whole=isinstance(model.task.collator, Stream))
    encoded = list(encode_rows(model.task, rows, model.tokenizer))
    encoded = model.task.collator.measured(encoded, model.tokenizer)
    loss, done = Loss(), 0
    for batch in batches_by_length(encoded, batch_size):
        loss += model.score(batch)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(encoded))
    if not loss.count:
        raise RecordError(name_of(data), "no row has anything to learn")
    return {**loss.figures(), "records": len(rows), **_metric_figures(model, rows)}


def batches_by_length(rows: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Yield rows of like length together, so that little is padded; the sum does not mind."""
    by_length = sorted(rows, key=len)
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]


def _metric_figures(model: Answerer, rows: Sequence[Row]) -> dict[str, float]:
    if not model.task.metrics:
        return {}
    model = model.with_task(cutting(model.task))  # a row that was cut in training counts, too
    dialect = model.tokenizer.dialect
    references = [model.task.reference(row, dialect) for row in rows]
    # What scores labels, or fills masks, draws nothing, so there is nothing to make greedy.
    draws = not isinstance(model.task.decoder, (Chooser, Filler))
    options: dict[str, Any] = {"temperature": 0.0} if draws else {}
    answers = [answer.value for answer in model.batch(rows, **options)]
    figures: dict[str, float] = {}
    for metric in model.task.metrics:
        figures |= metric.score(answers, references)
    return figures
