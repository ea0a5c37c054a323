"""Lessons: each task that a run learns, with its records, split and encoded."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.choosing import check_labels
from lmkit.collating import Feed, Schedule, Stream
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import LmkitError, RecordError, RecordErrors, TaskError, TokenizerError
from lmkit.files import write_atomically
from lmkit.loss import Loss
from lmkit.mixing import MixedFeed, Mixture, by_task, tasks_of
from lmkit.reading import read_raw
from lmkit.records import Row, fingerprint, name_of
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.transforms import transformed

HELD_OUT_FILE = "eval.jsonl"


class HeldOutWarning(UserWarning):
    """What a run was measured on is not kept in it."""


@attrs.frozen(kw_only=True)
class Lesson:
    """One task with its records.

    Attributes:
        task: what is learned.
        name: what to call the data in a message.
        eval_name: what to call the records that are measured.
        rows: the records to learn from, as they were read; later as the task's transforms leave them.
        eval_rows: the records to measure, likewise; perhaps none.
        fraction: how much of the data those are, where they were split off it; None where not.
        held_out: what was split off, as it was read; of one text its tail.
        encoded: the rows' ids and labels.
        eval_encoded: the same for the records to measure.
    """

    task: Task
    name: str
    eval_name: str
    rows: Sequence[Row]
    eval_rows: Sequence[Row] = ()
    fraction: float | None = None
    held_out: Sequence[Row] = ()
    encoded: Sequence[Encoded] = ()
    eval_encoded: Sequence[Encoded] = ()


def read_lessons(
    what: Task | Mixture, *, data: Any, eval_data: Any, eval_fraction: float | None, seed: int
) -> list[Lesson]:
    """Read each task's records, and split some off if a fraction says so.

    Raises:
        RecordError: data is missing or is no data.
        TaskError: a mixture's data is not named by its tasks.
        LmkitError: there is both a fraction and data to measure on.
    """
    _check_fraction(eval_fraction, eval_data)
    measured: Iterator[Any] = iter([None] * len(tasks_of(what)))
    if eval_data is not None:
        measured = by_task(what, eval_data, option="eval_data", all_=False)
    lessons = []
    for task, source, eval_source in zip(
        tasks_of(what), by_task(what, data, option="data"), measured, strict=True
    ):
        name = name_of(source)
        rows: Sequence[Row] = read_raw(task, source)
        eval_rows: Sequence[Row] = read_raw(task, eval_source) if eval_source is not None else ()
        if eval_fraction is not None and not isinstance(task.collator, Stream):
            rows, eval_rows = split(rows, eval_fraction, seed, name=name)
        lessons.append(
            Lesson(
                task=task,
                name=name,
                eval_name=name if eval_source is None else name_of(eval_source),
                rows=rows,
                eval_rows=eval_rows,
                fraction=eval_fraction,
                held_out=eval_rows if eval_fraction is not None else (),
            )
        )
    return lessons


def split(
    rows: Sequence[Row], fraction: float, seed: int, *, name: str
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return records to learn from and records held out, the same for the same seed.

    It is the split of `datasets`' `train_test_split`.

    Source: datasets/arrow_dataset.py, train_test_split with shuffle: a permutation of which the
    first ceil(fraction * n) are held out.

    Raises:
        RecordError: there would be nothing left to learn from.
    """
    n_held_out = math.ceil(fraction * len(rows))
    if n_held_out >= len(rows):
        raise RecordError(name, f"{len(rows)} records are too few to hold out {fraction:g} of them")
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    return [rows[at] for at in order[n_held_out:]], [rows[at] for at in order[:n_held_out]]


def encoded(lesson: Lesson, task: Task, tokenizer: Tokenizer) -> Lesson:
    """Return a lesson with its records as its task's transforms leave them, and encoded.

    Args:
        lesson: the lesson.
        task: its task, fitted to the model.
        tokenizer: the model's.
    Raises:
        RecordError: records do not fit the task, or there is nothing to learn in them.
    """
    rows = transformed(task.transforms, lesson.rows, name=lesson.name)
    train_rows = list(encode_rows(task, rows, tokenizer))
    eval_rows: Sequence[Row] = ()
    measured: list[Encoded] = []
    held_out = lesson.held_out
    if isinstance(task.collator, Stream) and lesson.fraction is not None:
        train_rows, measured = task.collator.hold_out(train_rows, tokenizer, lesson.fraction)
        held_out = _as_records(task, measured[0], tokenizer)
    check_learnable(train_rows, lesson.name)
    check_labels(task, rows[0], tokenizer)
    if lesson.eval_rows:
        eval_rows = transformed(task.transforms, lesson.eval_rows, name=lesson.eval_name)
        measured = list(encode_rows(task, eval_rows, tokenizer))
        check_learnable(measured, lesson.eval_name)
    return attrs.evolve(
        lesson,
        task=task,
        rows=rows,
        eval_rows=eval_rows,
        held_out=held_out,
        encoded=train_rows,
        eval_encoded=measured,
    )


def _as_records(task: Task, tail: Encoded, tokenizer: Tokenizer) -> list[Row]:
    """Return the records that a text's tail would be read from; none, with a warning, if none would.

    The tail is cut off between two tokens. The first of them may open inside a character, or stand
    before what only a prompt's column could hold.
    """
    end = -1 if tokenizer.eos_id is None else tokenizer.eos_id
    try:
        column = task.answer_column
        parts = np.split(tail.input_ids, np.flatnonzero(tail.input_ids == end))
        texts = [tokenizer.decode(part.tolist()) for part in parts]
        rows = [Row({column: text}, f"the tail:{index}") for index, text in enumerate(texts)]
        again = task.collator.measured(list(encode_rows(task, rows, tokenizer)), tokenizer)
    except (RecordError, RecordErrors, TaskError, TokenizerError):
        again = []
    wanted = task.collator.measured([tail], tokenizer)
    if task.transforms or len(again) != len(wanted) or any(map(_differ, again, wanted)):
        warnings.warn(
            f"the tail of the text that task '{task.name}' holds out is not in the run: it cannot be "
            "written as records that are read as the same tokens",
            HeldOutWarning,
            stacklevel=2,
        )
        return []
    return rows


def _differ(one: Encoded, other: Encoded) -> bool:
    same = np.array_equal(one.input_ids, other.input_ids)
    return not (same and np.array_equal(one.labels, other.labels))


def check_learnable(rows: Sequence[Encoded], name: str) -> None:
    """Refuse a set in which nothing can be learned."""
    if not any(row.n_learned for row in rows):
        raise RecordError(name, "no row has anything to learn")


def feed_of(
    what: Task | Mixture, lessons: Sequence[Lesson], tokenizer: Tokenizer
) -> Feed | Schedule:
    """Return what training draws its rows from."""
    feeds = [lesson.task.collator.feed(lesson.encoded, tokenizer) for lesson in lessons]
    return MixedFeed(what, feeds) if isinstance(what, Mixture) else feeds[0]


def data_account(what: Task | Mixture, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Return what a run says of its data: names, numbers of rows, and a sha256 of all that is read."""
    each = {
        lesson.task.name: {
            "name": lesson.name,
            "rows": len(lesson.rows),
            "sha256": fingerprint([*lesson.rows, *lesson.eval_rows]),
        }
        for lesson in lessons
    }
    if not isinstance(what, Mixture):
        return each[what.name]
    return {
        "name": ", ".join(f"{name}={about['name']}" for name, about in each.items()),
        "rows": sum(len(lesson.rows) for lesson in lessons),
        "sha256": fingerprint([each]),
        "tasks": each,
    }


def write_held_out(folder: Path, lessons: Sequence[Lesson]) -> None:
    """Write what was split off, as it was read, so that `evaluate` can have it."""
    for lesson in lessons:
        if lesson.held_out:
            lines = (json.dumps(row, ensure_ascii=False, default=str) for row in lesson.held_out)
            name = HELD_OUT_FILE if len(lessons) == 1 else f"eval-{lesson.task.name}.jsonl"
            write_atomically(folder / name, "".join(f"{line}\n" for line in lines))


def loss_figures(losses: Mapping[str, Loss]) -> dict[str, float]:
    """Return the figures of each task of a mixture by its name, and those over all of them."""
    figures: dict[str, float] = {}
    for name, loss in losses.items():
        found = loss.figures()
        figures |= {f"{name}_loss": found["loss"], f"{name}_perplexity": found["perplexity"]}
    return {**figures, **sum(losses.values(), Loss()).figures()}


def _check_fraction(fraction: float | None, eval_data: Any) -> None:
    if fraction is None:
        return
    if eval_data is not None:
        raise LmkitError(
            "eval_data and eval_fraction both say what to measure on; give one of them"
        )
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise LmkitError(f"eval_fraction is {fraction!r}; expected a number between 0 and 1")
