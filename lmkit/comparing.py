"""Compare: two models answer the same records, side by side, and are measured on them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.answering import Answerer, open_answerer
from lmkit.answering.filling import expected, posed, said
from lmkit.collating.seq2seq import cutting
from lmkit.decoding import Answer
from lmkit.errors import RecordError, TaskError
from lmkit.evaluating import EVAL_BATCH, measure
from lmkit.metrics import check_ready
from lmkit.reading import read_for
from lmkit.records import Data, Row, name_of
from lmkit.saving.manifest import MANIFEST_FILE
from lmkit.showing import asked
from lmkit.task import Task

Progress = Callable[[int, int], None]


@attrs.frozen(kw_only=True)
class Pair:
    """One record with both answers.

    Attributes:
        record: the record, at its place.
        asked: what of it the models were asked.
        reference: the answer that it holds, as a model's would be read.
        before: the first model's answer.
        after: the second model's answer.
        said: both answers as they are set beside the reference.
    """

    record: Row
    asked: str
    reference: Any
    before: Answer
    after: Answer
    said: tuple[Any, Any]

    @property
    def agree(self) -> bool:
        """Whether both answers are the same, whichever way Hangul is composed."""
        before, after = map(_composed, self.said)
        return before == after


@attrs.frozen(kw_only=True)
class Comparison:
    """Two models on the same records.

    Attributes:
        task: what both do.
        pairs: the records with their answers, in order.
        before: the first model's perplexity, loss and metrics.
        after: the second model's.
        same_tokens: whether both have one tokenizer; perplexities over other tokens do not compare.
    """

    task: Task
    pairs: tuple[Pair, ...]
    before: dict[str, float]
    after: dict[str, float]
    same_tokens: bool

    @property
    def agreement(self) -> float:
        """The share of records that both answer alike, between 0 and 1."""
        return sum(pair.agree for pair in self.pairs) / len(self.pairs)


def compare(
    before: Any,
    after: Any,
    *,
    data: Data,
    task: Task | str | None = None,
    limit: int | None = None,
    batch_size: int = EVAL_BATCH,
    on_progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Let two models answer the same records.

    A source that is too long for the task is read as far as in training, and in a text without a
    mask that is to be filled, a word is hidden.

    Args:
        before: a run, a bundle, what is open already, or any model: a hub id, a folder, a `.gguf`
            file.
        after: likewise.
        data: records with their answers.
        task: what to do, where neither is a run or a bundle, or where a run has lost a part of it.
        limit: answer the first so many records only.
        batch_size: records answered at once.
        on_progress: called with (answered, to be answered), both models together.
        options: fields of `Generation`, such as `temperature=0` or `seed=1`, for both.
    Raises:
        TaskError: they do unlike tasks; the text names both.
        RecordError: the data does not fit the task.
    """
    models = [model.with_task(cutting(model.task)) for model in _opened(before, after, task)]
    own = models[0].task
    _check_same(*models)
    for model in models:
        check_ready(model.task.metrics)
    rows = read_for(own, data)[:limit]
    if not rows:
        raise RecordError(name_of(data), f"limit is {limit}, which leaves no record to answer")
    references = [expected(own, row, models[0].tokenizer) for row in rows]
    asked_rows = [[posed(own, row, model.tokenizer) for row in rows] for model in models]
    answers: list[list[Answer]] = [[], []]
    for side, model in enumerate(models):
        for start in range(0, len(rows), batch_size):
            part = asked_rows[side][start : start + batch_size]
            answers[side] += model.batch(part, batch_size=batch_size, **options)
            if on_progress is not None:
                on_progress(side * len(rows) + len(answers[side]), 2 * len(rows))
    figures = [
        _figures(model, rows, given, references, name_of(data), batch_size)
        for model, given in zip(models, answers, strict=True)
    ]
    return Comparison(
        task=own,
        pairs=tuple(
            Pair(
                record=row,
                asked=asked(own, row),
                reference=reference,
                before=old,
                after=new,
                said=(said(own, old), said(own, new)),
            )
            for row, reference, old, new in zip(asked_rows[0], references, *answers, strict=True)
        ),
        before=figures[0],
        after=figures[1],
        same_tokens=models[0].tokenizer.fingerprint == models[1].tokenizer.fingerprint,
    )


def _opened(before: Any, after: Any, task: Task | str | None) -> tuple[Answerer, Answerer]:
    """Open both; a model without a task of its own does what the other one does."""
    if task is None and _is_plain(after):
        first = _open(before, task)
        return first, _open(after, first.task)
    second = _open(after, task)
    return _open(before, second.task if task is None and _is_plain(before) else task), second


def _open(source: Any, task: Task | str | None) -> Answerer:
    is_bundle = isinstance(source, (str, os.PathLike)) and (Path(source) / MANIFEST_FILE).is_file()
    return open_answerer(source, None if is_bundle else task)


def _is_plain(source: Any) -> bool:
    """Say whether a model has no task of its own: it is neither open, nor a run, nor a bundle."""
    if isinstance(source, (str, os.PathLike)):
        return not any((Path(source) / name).is_file() for name in (MANIFEST_FILE, "task.json"))
    return not isinstance(source, Answerer)


def _check_same(before: Answerer, after: Answerer) -> None:
    """Refuse models that would read the same record differently."""
    for part in ("formatter", "decoder"):
        if getattr(before.task, part) != getattr(after.task, part):
            raise TaskError(
                f"the first model does '{before.task.name}' and the second '{after.task.name}', "
                f"whose {part}s are unlike, so their answers do not compare"
            )


def _figures(
    model: Answerer,
    rows: Sequence[Row],
    answers: Sequence[Answer],
    references: Sequence[Any],
    name: str,
    batch_size: int,
) -> dict[str, float]:
    figures = measure(model, rows, name=name, batch_size=batch_size).figures()
    for metric in model.task.metrics:
        figures |= metric.score([answer.value for answer in answers], references)
    return figures


def _composed(value: Any) -> str:
    return unicodedata.normalize("NFC", str(value)).strip()
