"""The seam between what can answer and what asks: a run through torch, or a bundle without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lmkit.decoding import Answer
from lmkit.encoding import Encoded, Ids
from lmkit.errors import BundleError, MissingExtra, ModelError
from lmkit.formatting import Record
from lmkit.loss import Loss
from lmkit.manifest import MANIFEST_FILE
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
        """Yield the answer's text in pieces, as it is written."""

    def batch(
        self, records: Sequence[Record], *, batch_size: int = ..., **options: Any
    ) -> list[Answer]:
        """Answer several records, in order, so many at a time."""

    def prompt(self, record: Record, index: int = 0) -> Ids:
        """Return what the model is given for a record, int64 [P]; raise if it does not fit."""

    def log_probs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float64]]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""

    def score(self, rows: Sequence[Encoded]) -> Loss:
        """Return the loss over some rows' learned tokens."""


def open_answerer(source: Any, **options: Any) -> Answerer:
    """Open a run or a bundle.

    Args:
        source: the path of either, a `Run`, or something that is open already.
        options: what `lmkit.load` takes, for a bundle.
    Raises:
        BundleError: the folder is neither, or it is a damaged bundle.
        MissingExtra: it is a run, and torch is not installed.
    """
    if isinstance(source, Answerer):
        return source
    path = Path(source)
    if (path / MANIFEST_FILE).is_file():
        from lmkit.runtime.generator import load

        return load(path, **options)
    if (path / "task.json").is_file():
        try:
            from lmkit.train.answering import open_run
        except ModuleNotFoundError as error:
            raise MissingExtra("running a model through torch", "train", error.name) from error
        return open_run(path)
    if not path.exists():
        raise ModelError(f"there is no run or bundle '{path}'")
    raise BundleError(
        f"'{path}' is neither a run (it has no task.json) nor a bundle (it has no {MANIFEST_FILE})"
    )
