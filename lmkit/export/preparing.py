"""Before anything is written: the task, the model and the tokenizer, known to fit together."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmkit.answering.choosing import check_labels
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import prompt_ids
from lmkit.errors import ExportError, MissingExtra
from lmkit.export.probes import probe_records
from lmkit.export.source import Source
from lmkit.family import Family
from lmkit.records import Row
from lmkit.registry import one_task, task_in
from lmkit.saving.jsonform import to_json
from lmkit.task import Task
from lmkit.transforms import check_named


def prepared(run: Any, task: Task, tokenizer: Any, rows: Sequence[Row]) -> Source:
    """Load the model and refuse what cannot work before minutes are spent on the graph."""
    family = heavy(task.family)
    from lmkit.export.merging import settled
    from lmkit.train.lengths import fitted
    from lmkit.train.models import load_model
    from lmkit.train.special import align, stop_ids, with_own_ids
    from lmkit.train.wrapped import base_of

    loaded = load_model(_source(run), family=task.family, tokenizer=tokenizer)
    family.check(base_of(loaded.model))
    task = with_own_ids(fitted(task, loaded.model), loaded.model)
    # Read before `align` replaces them; in another tokenizer they mean nothing.
    own_stops = stop_ids(loaded.model) if tokenizer is None else []
    ready, stops = align(loaded.model, loaded.tokenizer, task.formatter)
    if not stops and task.family is not Family.MASKED:
        raise ExportError("the tokenizer has no EOS token, so no answer would ever end")
    records = probe_records(task, rows, ready)
    prompts = [prompt_ids(cutting(task), record, ready) for record in records]
    for record in records:
        check_labels(cutting(task), record, ready)
    model, adapter = settled(loaded.model, prompts, task.family)
    return Source(
        task=task,
        model=model,
        name=loaded.name,
        tokenizer=ready,
        stops=tuple(dict.fromkeys([*stops, *own_stops])),
        records=records,
        adapter=adapter,
    )


def task_of(run: Any, task: Task | str | None) -> Task:
    """Return what a bundle is to do.

    Raises:
        ExportError: nothing says so.
        SerialError: it cannot become JSON.
    """
    try:
        name, has_task = str(run), (Path(run) / "task.json").is_file()
    except TypeError:
        name, has_task = type(run).__name__, False
    if has_task:
        found = task_in(run, task)
    elif task is not None:
        found = one_task(task)
    else:
        raise ExportError(
            f"'{name}' has no task.json, so it is not known what it does; name a task with "
            "task= (--task), such as chat"
        )
    check_named(found.name, found.transforms)
    to_json(found)  # what cannot become JSON is told before any work
    return found


def heavy(family: Family) -> Any:
    """Import the family's module, which needs an extra.

    It has `check`, `write`, `refer` (what torch says), `compare` (float32 with that) and `agree` (rounded
    weights with that).
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it

        return importlib.import_module(f"lmkit.export.{family}")
    except ModuleNotFoundError as error:
        raise MissingExtra("export", "export", error.name) from error


def _source(run: Any) -> Any:
    path = getattr(run, "path", None)
    return str(path) if path is not None else run
