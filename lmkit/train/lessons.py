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

from lmkit.answering.choosing import check_labels
from lmkit.answering.loss import Loss
from lmkit.chat.rendering import now
from lmkit.collating import Feed, Schedule, Stream
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import LmkitError, RecordError, RecordErrors, TaskError, TokenizerError
from lmkit.files import write_atomically
from lmkit.mixing import MixedFeed, Mixture, by_task, tasks_of
from lmkit.records import (
    STOP,
    BadRows,
    Row,
    fingerprint,
    gather,
    nothing_in,
    warn_of_skipped,
)
from lmkit.sources import Positions, Source, SourceRows
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.preparing.caching import Preparation, prepare
from lmkit.train.preparing.prepared import (
    ArrowRows,
    ChosenRows,
    HeldRows,
    content_of,
    counts_of,
    of_positions,
)

HELD_OUT_FILE, SKIPPED_FILE = "eval.jsonl", "skipped.jsonl"


class HeldOutWarning(UserWarning):
    """What a run was measured on is not kept in it."""


@attrs.frozen(kw_only=True)
class Lesson:
    """One task with its records.

    Attributes:
        task: what is learned.
        name: what to call the data in a message.
        eval_name: what to call the records that are measured.
        source: where the records are.
        eval_source: where the records to measure are, if they are apart.
        fraction: how much of the data is to be measured, where that is split off it; None where not.
        seed: decides what is split off.
        rows: the records to learn from, as the task's transforms leave them.
        eval_rows: the records to measure, likewise; perhaps none.
        held_out: what was split off, as it was read; of one text its tail.
        encoded: the rows' ids and labels.
        eval_encoded: the same for the records to measure.
        skipped: the errors of records that were left out.
        eval_skipped: the same of records to measure that are apart.
        sha256: of the content and order of all that is read.
        explained: whether the rows were in the cache, and if not why.
    """

    task: Task
    name: str
    eval_name: str
    source: Source
    eval_source: Source | None = None
    fraction: float | None = None
    seed: int = 0
    rows: Sequence[Row] = ()
    eval_rows: Sequence[Row] = ()
    held_out: SourceRows | None = None
    encoded: Sequence[Encoded] = ()
    eval_encoded: Sequence[Encoded] = ()
    skipped: Sequence[RecordError] = ()
    eval_skipped: Sequence[RecordError] = ()
    sha256: str = ""
    explained: Sequence[str] = ()


def open_lessons(
    what: Task | Mixture,
    *,
    data: Any,
    eval_data: Any,
    eval_fraction: float | None,
    seed: int,
    on_bad_row: str = STOP,
) -> list[Lesson]:
    """Find each task's records; those of files are not read yet.

    Raises:
        RecordError: data is missing or is no data.
        TaskError: a mixture's data is not named by its tasks.
        LmkitError: there is both a fraction and data to measure on.
        UnknownName: bad rows cannot be treated so.
    """
    BadRows(on_bad_row)
    _check_fraction(eval_fraction, eval_data)
    measured: Iterator[Any] = iter([None] * len(tasks_of(what)))
    if eval_data is not None:
        measured = by_task(what, eval_data, option="eval_data", all_=False)
    lessons = []
    for task, given, eval_given in zip(
        tasks_of(what), by_task(what, data, option="data"), measured, strict=True
    ):
        source = _opened(task, given, on_bad_row)
        eval_source = None if eval_given is None else _opened(task, eval_given, on_bad_row)
        lessons.append(
            Lesson(
                task=task,
                name=source.name,
                eval_name=source.name if eval_source is None else eval_source.name,
                source=source,
                eval_source=eval_source,
                fraction=eval_fraction,
                seed=seed,
            )
        )
    return lessons


def _opened(task: Task, data: Any, on_bad_row: str) -> Source:
    """Return a source; what is in memory already is looked at before a model is loaded."""
    source = Source.open(data, whole=isinstance(task.collator, Stream))
    if source.in_memory:
        bad = BadRows(on_bad_row)
        if not gather(source.rows(), on_bad_row=bad):
            bad.end()
            raise nothing_in(data, bad.errors[0] if bad.errors else None)
        bad.end()
    return source


def split(
    rows: Sequence[Row], fraction: float, seed: int, *, name: str
) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return records to learn from and records held out; see `split_places`."""
    learn, held_out = split_places(len(rows), fraction, seed, name=name)
    return [rows[at] for at in learn], [rows[at] for at in held_out]


def split_places(
    count: int, fraction: float, seed: int, *, name: str
) -> tuple[Positions, Positions]:
    """Return which records to learn from and which are held out, the same for the same seed.

    It is the split of `datasets`' `train_test_split`.

    Source: datasets/arrow_dataset.py, train_test_split with shuffle: a permutation of which the
    first ceil(fraction * n) are held out.

    Raises:
        RecordError: there would be nothing left to learn from.
    """
    n_held_out = math.ceil(fraction * count)
    if n_held_out >= count:
        raise RecordError(name, f"{count} records are too few to hold out {fraction:g} of them")
    order = np.random.default_rng(seed).permutation(count)
    return order[n_held_out:], order[:n_held_out]


def encoded(
    lesson: Lesson,
    task: Task,
    tokenizer: Tokenizer,
    *,
    moment: str | None = None,
    how: Preparation | None = None,
) -> Lesson:
    """Return a lesson with its records as its task's transforms leave them, and encoded.

    Args:
        lesson: the lesson.
        task: its task, fitted to the model.
        tokenizer: the model's.
        moment: the date for templates that print one; the present if not given.
        how: what becomes of bad rows, whether there is a cache, and the like.
    Raises:
        RecordError: records do not fit the task, or there is nothing to learn in them.
    """
    moment, how = moment or now(), how or Preparation()
    found = prepare(task, lesson.source, tokenizer, moment, how)
    sha256, explained = found.account.sha256, [found.explained]
    eval_skipped: Sequence[RecordError] = ()
    train_rows: Sequence[Encoded] = found.rows
    measured: Sequence[Encoded] = ()
    held_out: SourceRows | None = None
    eval_rows: Sequence[Row] = ()
    rows = _records(lesson.source, task, found.rows)
    if lesson.fraction is not None and isinstance(task.collator, Stream):
        train_rows, measured = task.collator.hold_out(train_rows, tokenizer, lesson.fraction)
        tail = Source(lesson.name, held=_as_records(task, measured[0], tokenizer))
        held_out = SourceRows(tail, np.arange(len(tail)))
    elif lesson.fraction is not None:
        good = found.account.good
        learn, held = split_places(len(good), lesson.fraction, lesson.seed, name=lesson.name)
        train_rows = of_positions(found.rows, good[learn])
        measured = of_positions(found.rows, good[held])
        rows = _records(lesson.source, task, train_rows)
        eval_rows = _records(lesson.source, task, measured)
        held_out = SourceRows(lesson.source, good[held])
        check_learnable(measured, lesson.name)
    check_learnable(train_rows, lesson.name)
    check_labels(task, rows[0], tokenizer)
    if lesson.eval_source is not None:
        apart = prepare(task, lesson.eval_source, tokenizer, moment, how)
        measured, eval_rows = apart.rows, _records(lesson.eval_source, task, apart.rows)
        check_learnable(measured, lesson.eval_name)
        eval_skipped = [bad.error for bad in apart.account.bad]
        explained.append(apart.explained)
        sha256 = fingerprint([{"data": sha256, "eval_data": apart.account.sha256}])
    return attrs.evolve(
        lesson,
        task=task,
        rows=rows,
        eval_rows=eval_rows,
        held_out=held_out,
        encoded=train_rows,
        eval_encoded=measured,
        skipped=[bad.error for bad in found.account.bad],
        eval_skipped=eval_skipped,
        sha256=sha256,
        explained=explained,
    )


def _records(source: Source, task: Task, rows: ArrowRows | HeldRows | ChosenRows) -> SourceRows:
    """Return the records that rows were made of; neighbours may be of one record."""
    positions = rows.counts("position")
    first = np.diff(positions, prepend=-1) != 0
    return SourceRows(source, positions[first], task.transforms)


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
    if not counts_of(rows, "n_learned").any():
        raise RecordError(name, "no row has anything to learn")


def feed_of(
    what: Task | Mixture, lessons: Sequence[Lesson], tokenizer: Tokenizer
) -> Feed | Schedule:
    """Return what training draws its rows from."""
    feeds = [lesson.task.collator.feed(lesson.encoded, tokenizer) for lesson in lessons]
    return MixedFeed(what, feeds) if isinstance(what, Mixture) else feeds[0]


def data_account(what: Task | Mixture, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Return what a run says of its data: names, numbers of rows, and a sha256 of all that is read.

    `encoded` is one of the ids and labels that were made of it.
    """
    encoded = {
        lesson.task.name: fingerprint(
            [{"train": content_of(lesson.encoded), "eval": content_of(lesson.eval_encoded)}]
        )
        for lesson in lessons
    }
    each = {
        lesson.task.name: {
            "name": lesson.name,
            "rows": len(lesson.rows),
            "sha256": lesson.sha256,
        }
        for lesson in lessons
    }
    if not isinstance(what, Mixture):
        return {**each[what.name], "encoded": encoded[what.name]}
    return {
        "encoded": fingerprint([encoded]),
        "name": ", ".join(f"{name}={about['name']}" for name, about in each.items()),
        "rows": sum(len(lesson.rows) for lesson in lessons),
        "sha256": fingerprint([each]),
        "tasks": each,
    }


def write_held_out(folder: Path, lessons: Sequence[Lesson]) -> None:
    """Write what was split off, as it was read, so that `evaluate` can have it."""
    for lesson in lessons:
        if lesson.held_out:
            name = HELD_OUT_FILE if len(lessons) == 1 else f"eval-{lesson.task.name}.jsonl"
            write_atomically(folder / name, "".join(lesson.held_out.mapped(_line)))


def write_skipped(folder: Path, lessons: Sequence[Lesson]) -> None:
    """List the records that were left out, and warn of them."""
    lines = []
    for lesson in lessons:
        task = {"task": lesson.task.name} if len(lessons) > 1 else {}
        lines += [
            _line({**task, "where": error.where, "problem": error.problem})
            for error in [*lesson.skipped, *lesson.eval_skipped]
        ]
        listed = str(folder / SKIPPED_FILE)
        warn_of_skipped(lesson.name, lesson.skipped, listed=listed)
        warn_of_skipped(lesson.eval_name, lesson.eval_skipped, listed=listed)
    if lines:
        write_atomically(folder / SKIPPED_FILE, "".join(lines))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"


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
