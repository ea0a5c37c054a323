"""The seam between what can answer and what asks: a run through torch, or a bundle without it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lmkit.answering.logits import LogProbs
from lmkit.answering.loss import Loss
from lmkit.decoding import Answer
from lmkit.encoding import Encoded, Ids
from lmkit.errors import BundleError, MissingExtra, ModelError, TaskError
from lmkit.formatting import Record
from lmkit.saving.manifest import MANIFEST_FILE, read_manifest
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer


@runtime_checkable
class Answerer(Protocol):
    """A model that is open: it answers records of its task, and scores rows."""

    @property
    def task(self) -> Task:
        """What it was trained to do."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that its prompts are made with."""

    def with_task(self, task: Task) -> Answerer:
        """Return the same model under another task of its family."""

    def __call__(self, record: Record, **options: Any) -> Answer:
        """Answer one record; options are fields of `Generation`."""

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the answer's text in pieces, as it is written; a generator that returns the `Answer`."""

    def batch(
        self, records: Sequence[Record], *, batch_size: int = ..., **options: Any
    ) -> list[Answer]:
        """Answer several records, in order, so many at a time."""

    def prompt(self, record: Record, index: int = 0) -> Ids:
        """Return what the model is given for a record, int64 [P]; raise if it does not fit."""

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""

    def score(self, rows: Sequence[Encoded]) -> Loss:
        """Return the loss over some rows' learned tokens."""


def open_answerer(source: Any, task: Task | str | None = None, **options: Any) -> Answerer:
    """Open a run or a bundle.

    Args:
        source: the path of either, a `Run`, or something that is open already; with `task` also a
            hub id, a model's folder, a `.gguf` file or a loaded model.
        task: which of a mixture's tasks a run is to do, or what a model is to do.
        options: what `lmkit.load` takes, for a bundle.
    Raises:
        BundleError: the folder is neither, or it is a damaged bundle.
        TaskError: a bundle was given a task, which is its own already; or a run a precision.
        MissingExtra: it is a run, and torch is not installed.
    """
    if isinstance(source, Answerer):
        return source
    if task is not None and not isinstance(source, (str, os.PathLike)):
        return _through_torch("open_model", source, task)
    path = Path(source)
    if (path / MANIFEST_FILE).is_file():
        from lmkit.runtime.opening import load

        _check_bundles_task(path, task)
        return load(path, **options)
    if options.get("precision") is not None:
        raise TaskError(
            f"'{source}' is no bundle, so it has no precisions to choose from; leave precision= "
            "(--precision) out, or export it first"
        )
    if (path / "task.json").is_file():
        return _through_torch("open_run", path, task)
    if task is not None:
        return _through_torch("open_model", source, task)
    if not path.exists():
        raise ModelError(f"there is no run or bundle '{path}'")
    raise BundleError(
        f"'{path}' is neither a run (it has no task.json) nor a bundle (it has no {MANIFEST_FILE})"
    )


def _through_torch(opener: str, source: Any, task: Task | str | None) -> Answerer:
    """Call a function of `lmkit.train.answering`, whose packages may be missing."""
    try:
        from lmkit.train import answering
    except ModuleNotFoundError as error:
        raise MissingExtra("running a model through torch", "train", error.name) from error
    opened: Answerer = getattr(answering, opener)(source, task)
    return opened


def _check_bundles_task(path: Path, task: Task | str | None) -> None:
    """Refuse to let a bundle do anything but its own task."""
    if task is None:
        return
    own = read_manifest(path).task.name
    if own != (task.name if isinstance(task, Task) else task):
        raise TaskError(f"'{path}' is a bundle that does '{own}'; leave task= (--task) out")
