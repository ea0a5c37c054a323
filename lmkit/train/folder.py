"""A run's folder: what lies in it, whether it is whole, and whether a training may go on in it.

It is a folder that `AutoModelFor...from_pretrained` reads, with `task.json` (what was trained),
`run.json` (from what, how far, with which versions) and `metrics.jsonl` beside it. An adapter's run
holds the adapter's weights alone, and the name of the model that they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import ModelError
from lmkit.mixing import Mixture, tasks_of
from lmkit.saving.jsonform import to_json
from lmkit.saving.taskfile import heading, read_task
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.quiet import quiet
from lmkit.train.wrapped import ADAPTER_CONFIG, base_of, is_adapted
from lmkit.transforms import recorded

TASK_FILE, RUN_FILE, METRICS_FILE = "task.json", "run.json", "metrics.jsonl"


@attrs.frozen
class Run:
    """A trained model's folder.

    Attributes:
        path: the folder.
        task: what it was trained to do; a mixture of several tasks perhaps.
        metrics: the last figures, such as `eval_perplexity`; empty for a run opened from disk.
    """

    path: Path
    task: Task | Mixture
    metrics: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def cut(self) -> dict[str, int]:
        """How many `rows` were too long, how many `ids` that left out, and the `max_length`."""
        return dict(read_about(self.path)["cut"])

    @property
    def n_empty(self) -> int:
        """How many rows had nothing to learn, such as texts that the tokenizer does not know."""
        return int(read_about(self.path).get("empty", 0))

    @property
    def parameters(self) -> dict[str, int]:
        """How many numbers the model has in `all`, and how many of them were `trainable`."""
        return dict(read_about(self.path).get("parameters", {}))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:  # what transformers' from_pretrained(run) reads
        return str(self.path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run in a folder.

        Raises:
            ModelError: the folder is no finished run.
        """
        folder = Path(path)
        if not (folder / TASK_FILE).is_file():
            raise ModelError(f"'{path}' is not a run: it has no {TASK_FILE}")
        has_model = any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
        if not has_model or _is_unfinished(folder):
            raise ModelError(
                f"'{path}' holds a run that has not finished; continue it with --resume"
            )
        return cls(folder, read_task(folder / TASK_FILE))


def _is_unfinished(folder: Path) -> bool:
    """Say whether a training began here and has not ended; a checkpoint keeps no such record."""
    about = read_about(folder)
    return bool(about) and not about.get("finished")


def read_about(folder: Path) -> dict[str, Any]:
    """Return what a run's folder says of its making; empty if nothing was begun in it."""
    file = folder / RUN_FILE
    if not file.is_file():
        return {}
    about: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return about


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None.

    A kill may leave half a checkpoint; the task is put into it last, so its presence says enough.
    """
    found = {
        int(path.name.rpartition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit() and (path / TASK_FILE).is_file()
    }
    return found[max(found)] if found else None


def save_model(
    model: Any, tokenizer: Tokenizer, folder: Path, weights: dict[str, Any] | None = None
) -> None:
    """Write weights, config, generation config and tokenizer in Hugging Face's layout.

    Args:
        model: a transformers model, perhaps one of peft's.
        tokenizer: its tokenizer.
        folder: where to.
        weights: tensors by name, where the model itself holds only a part of each.
    """
    if weights is not None:  # gathered from processes, one tensor of two names has become two
        tied = getattr(base_of(model), "all_tied_weights_keys", None) or {}
        weights |= {name: weights[own] for name, own in tied.items() if own in weights}
    with quiet():
        model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
        save_beside(model, tokenizer, folder)


def save_beside(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what makes a folder with a model's weights a whole one."""
    # Whole models bring their generation config themselves, and a masked model has none.
    if is_adapted(model) and hasattr(base_of(model), "generation_config"):
        model.generation_config.save_pretrained(folder)
    tokenizer.save(folder)


def recorded_task(what: Task | Mixture) -> dict[str, Any]:
    """Return the JSON of a run's task; a transform without a name is written as lost."""
    tasks = [task.evolve(transforms=recorded(task.transforms)) for task in tasks_of(what)]
    return to_json(what.with_tasks(tasks) if isinstance(what, Mixture) else tasks[0])


def task_document(what: Task | Mixture) -> dict[str, Any]:
    """Return the content of a run's `task.json`."""
    return {**heading(what), **recorded_task(what)}


def check_same(folder: Path, what: Task | Mixture, about: Mapping[str, Any]) -> None:
    """Refuse to continue a run with another task, model, data or arguments, or other labels."""
    before = read_about(folder)
    if not before:
        others = {path.name for path in folder.glob("[!.]*")} - {TASK_FILE}
        if others:
            raise ModelError(
                f"'{folder}' is not a run, so there is nothing to resume: it has {min(others)} and "
                f"no {RUN_FILE}; choose another output"
            )
        return
    for key in ("model", "adapter", "tokenizer", "eval_fraction", "data", "arguments"):
        was, now = before.get(key), about[key]
        if isinstance(was, dict) and key == "data":
            was, now = was.get("sha256"), now["sha256"]
        if was != now:
            raise ModelError(
                f"'{folder}' cannot be resumed: its {key} was {was} and is {now} now; "
                "use what it was started with, or another output"
            )
    was, now = (account.get("processes", 1) for account in (before, about))
    if was != now:  # a step would be of another number of rows, and a row's chance another
        raise ModelError(
            f"'{folder}' cannot be resumed: {was} processes trained it and {now} would now; start as "
            "many, or use another output"
        )
    # After those, since another adapter leaves another room for rows, and so another task.
    if to_json(read_task(folder / TASK_FILE)) != recorded_task(what):
        raise ModelError(f"'{folder}' was started with another task than '{what.name}' is now")
    was = before["data"].get("encoded")  # which a run of an earlier lmkit does not say
    if was not in (None, about["data"]["encoded"]):
        raise ModelError(
            f"'{folder}' cannot be resumed: the same data gives other ids or labels now; the code that "
            "makes them has changed, lmkit's or a plugin's; use what it was started with, or another "
            "output"
        )
