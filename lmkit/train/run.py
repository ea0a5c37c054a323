"""Train: a task, a model and records become a Run.

A Run is a folder that `AutoModelFor...from_pretrained` reads, with `task.json` (what was trained),
`run.json` (from what, how far, with which versions) and `metrics.jsonl` beside it. The training
itself is transformers' Trainer; what varies is passed in.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

import lmkit
from lmkit.choosing import check_labels
from lmkit.collating import Batch
from lmkit.encoding import Encoded, encode_rows
from lmkit.errors import LmkitError, ModelError, OutputExists, RecordError, UnknownOption
from lmkit.files import write_atomically
from lmkit.jsonform import dump, read_task, to_json
from lmkit.records import Data, fingerprint, name_of, read
from lmkit.registry import get_task
from lmkit.rendering import at_time, now
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import datasets, torch, transformers
from lmkit.train.models import align, fitted, load_model, quiet

TASK_FILE, RUN_FILE, METRICS_FILE = "task.json", "run.json", "metrics.jsonl"

# What lmkit prefers where the user says nothing; any of it can be set like any other argument.
DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "logging_steps": 10,
    "logging_first_step": True,
    "save_strategy": "epoch",
    "save_total_limit": 2,
}
# These belong to lmkit; each with what a user who sets it should know.
RESERVED = {
    "output_dir": "it is output= (--output)",
    "resume_from_checkpoint": "it is resume= (--resume)",
    "remove_unused_columns": "the labels would be lost on their way",
    "disable_tqdm": "the bar is lmkit's own, and hides where there is no terminal",
}


@attrs.frozen
class Run:
    """A trained model's folder.

    Attributes:
        path: the folder.
        task: what it was trained to do.
        metrics: the last figures, such as `eval_perplexity`; empty for a run opened from disk.
    """

    path: Path
    task: Task
    metrics: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def cut(self) -> dict[str, int]:
        """How many `rows` were too long, how many `ids` that left out, and the `max_length`."""
        return dict(_read_about(self.path)["cut"])

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
        if not (folder / "config.json").is_file() or _is_unfinished(folder):
            raise ModelError(
                f"'{path}' holds a run that has not finished; continue it with --resume"
            )
        return cls(folder, read_task(folder / TASK_FILE))


def train(
    task: Task | str,
    *,
    model: Any,
    data: Data,
    output: str | Path,
    eval_data: Data | None = None,
    tokenizer: Any = None,
    pad: str | None = None,
    resume: bool = False,
    **arguments: Any,
) -> Run:
    """Train a model on a task's records.

    Args:
        task: a task, or the name of one.
        model: a hub id, a local folder, a `.gguf` file, or `scratch(...)`.
        data: a file, a `datasets` folder or hub name, or records in memory.
        output: the folder to make. It must not exist, unless `resume`.
        eval_data: records to measure loss and perplexity on, after every epoch.
        tokenizer: a folder or a tokenizer; None for the model's own.
        pad: the pad token; see `lmkit.train.models.load_model`.
        resume: continue from the output's last checkpoint, as if there had been no interruption;
            a run that has finished is returned as it is.
        arguments: any of transformers' TrainingArguments.
    Returns:
        The run; `run.metrics` has the last figures.
    Raises:
        UnknownOption: an argument that TrainingArguments does not have; near names are listed.
        OutputExists: the output is there and `resume` was not asked for.
        RecordError: the data does not fit the task.
        ModelError: the model cannot be loaded, or the run to resume is another one.
    """
    task = get_task(task)
    options = _checked(arguments)
    folder = Path(output)
    if folder.is_file() or (folder.is_dir() and not resume and any(folder.iterdir())):
        raise OutputExists(folder, remedy="choose another output, or continue it with --resume")
    rows, eval_rows = read(data), read(eval_data) if eval_data is not None else None
    seed = int(options.get("seed", 42))
    loaded = load_model(model, family=task.family, tokenizer=tokenizer, pad=pad, seed=seed)
    task = fitted(task, loaded.model)
    ready, _ = align(loaded.model, loaded.tokenizer, task.formatter)
    task = _portable(task)
    started = _read_about(folder).get("started", now()) if resume else now()
    with at_time(started):
        encoded = list(encode_rows(task, rows, ready))
        eval_encoded = list(encode_rows(task, eval_rows or [], ready))
        check_labels(task, rows[0], ready)
    check_learnable(encoded, name_of(data))
    if eval_rows:
        check_learnable(eval_encoded, name_of(eval_data or ""))
    about = {
        **_account(task, encoded, started),
        "model": loaded.name,
        "tokenizer": ready.fingerprint,
        "data": {"name": name_of(data), "rows": len(rows), "sha256": fingerprint(rows)},
        "arguments": {key: str(content) for key, content in sorted(arguments.items())},
        "finished": False,
    }
    if resume:
        _check_same(folder, task, about)
        if _read_about(folder).get("finished"):
            return Run(folder, task, _read_about(folder)["metrics"])
    caches = loaded.model.config.use_cache
    trainer = _trainer(task, loaded.model, ready, folder, options, encoded, eval_encoded)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TASK_FILE, dump(to_json(task)))
    write_atomically(folder / RUN_FILE, dump(about))
    metrics = _run_trainer(trainer, folder, resume=resume)
    loaded.model.config.use_cache = caches  # Trainer turns it off for its own steps
    save_model(loaded.model, ready, folder)
    write_atomically(folder / RUN_FILE, dump({**about, "finished": True, "metrics": metrics}))
    return Run(folder, task, metrics)


def _account(task: Task, rows: Sequence[Encoded], started: str) -> dict[str, Any]:
    """Return when a run began, with which versions, and what of its rows did not fit."""
    return {
        "lmkit": lmkit.__version__,
        "versions": _versions(),
        "started": started,
        "cut": {
            "rows": sum(row.n_cut > 0 for row in rows),
            "ids": sum(row.n_cut for row in rows),
            "max_length": task.collator.max_length,
        },
    }


def _is_unfinished(folder: Path) -> bool:
    """Say whether a training began here and has not ended; a checkpoint keeps no such record."""
    about = _read_about(folder)
    return bool(about) and not about.get("finished")


def _read_about(folder: Path) -> dict[str, Any]:
    """Return what a run's folder says of its making; empty if nothing was begun in it."""
    file = folder / RUN_FILE
    if not file.is_file():
        return {}
    about: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return about


def check_learnable(rows: Sequence[Encoded], name: str) -> None:
    """Refuse a set in which nothing can be learned."""
    if not any(row.n_learned for row in rows):
        raise RecordError(name, "no row has anything to learn")


def as_tensors(batch: Batch) -> dict[str, Any]:
    """Return a numpy batch as torch tensors, int64 [B, T]: the only such place in lmkit."""
    return {name: torch().from_numpy(array) for name, array in batch.items()}


def save_model(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights, config, generation config and tokenizer in Hugging Face's layout."""
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save(folder)


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in _training_fields() if field.init}
    for name, given in arguments.items():
        if name in RESERVED:
            raise LmkitError(f"'{name}' cannot be set: {RESERVED[name]}")
        if name not in defaults:
            known = [*defaults, "eval_data", "tokenizer", "pad", "resume"]
            raise UnknownOption("train", name, known)
        default = defaults[name]
        if isinstance(default, bool) and not isinstance(given, bool):
            raise LmkitError(f"{name} is {given!r}; expected true or false")
        if type(default) in (int, float) and type(given) not in (int, float):
            raise LmkitError(f"{name} is {given!r}; expected a number, such as {default}")
    return {**DEFAULTS, **arguments}


def _training_fields() -> Any:
    import dataclasses

    return dataclasses.fields(transformers().TrainingArguments)


def _portable(task: Task) -> Task:
    """Return the task as its JSON describes it, so that a run does not depend on other files."""
    from lmkit.jsonform import from_json

    return from_json(to_json(task), Task)


def _check_same(folder: Path, task: Task, about: Mapping[str, Any]) -> None:
    """Refuse to continue a run with another task, model, data or arguments."""
    before = _read_about(folder)
    if not before:
        others = {path.name for path in folder.glob("[!.]*")} - {TASK_FILE}
        if others:
            raise ModelError(
                f"'{folder}' is not a run, so there is nothing to resume: it has {min(others)} and "
                f"no {RUN_FILE}; choose another output"
            )
        return
    if to_json(read_task(folder / TASK_FILE)) != to_json(task):
        raise ModelError(f"'{folder}' was started with another task than '{task.name}' is now")
    for key in ("model", "tokenizer", "data", "arguments"):
        was, now = before.get(key), about[key]
        if isinstance(was, dict) and key == "data":
            was, now = was.get("sha256"), now["sha256"]
        if was != now:
            raise ModelError(
                f"'{folder}' cannot be resumed: its {key} was {was} and is {now} now; "
                "use what it was started with, or another output"
            )


def _trainer(
    task: Task,
    model: Any,
    tokenizer: Tokenizer,
    folder: Path,
    options: Mapping[str, Any],
    rows: Sequence[Encoded],
    eval_rows: Sequence[Encoded],
) -> Any:
    from lmkit.train.feeding import CountEpochs, MeasuredRows, TrainingRows
    from lmkit.train.progress import MetricsLog, Progress, SaveBeside
    from lmkit.train.trainer import TaskTrainer

    pad_id = tokenizer.pad_id
    assert pad_id is not None

    def collate(rows: Sequence[Encoded]) -> dict[str, Any]:
        return as_tensors(task.collator.collate(rows, pad_id))

    collator, options = task.collator, dict(options)
    train_set = TrainingRows(collator.feed(rows, tokenizer), int(options.get("seed", 42)))
    eval_set = MeasuredRows(collator.measured(eval_rows, tokenizer)) if eval_rows else None
    options.setdefault("dataloader_pin_memory", torch().cuda.is_available())
    if eval_set is not None:
        options.setdefault("eval_strategy", "epoch")
    try:
        arguments = transformers().TrainingArguments(
            output_dir=str(folder), remove_unused_columns=False, disable_tqdm=True, **options
        )
        trainer = TaskTrainer(
            family=task.family,
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=eval_set,
            data_collator=collate,
        )
    except (ValueError, TypeError) as error:
        raise LmkitError(f"the training arguments do not fit together: {error}") from error
    trainer.remove_callback(transformers().PrinterCallback)
    trainer.add_callback(CountEpochs(train_set))
    trainer.add_callback(Progress())
    trainer.add_callback(MetricsLog(folder / METRICS_FILE))
    trainer.add_callback(SaveBeside(tokenizer, folder / TASK_FILE))
    return trainer


def _run_trainer(trainer: Any, folder: Path, *, resume: bool) -> dict[str, float]:
    checkpoint = last_checkpoint(folder) if resume else None
    with quiet():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    figures: dict[str, float] = {}
    for entry in trainer.state.log_history:
        figures |= {key: value for key, value in entry.items() if isinstance(value, (int, float))}
    wanted = ("train_loss", "eval_loss", "eval_perplexity", "train_runtime", "epoch", "step")
    return {key: figures[key] for key in wanted if key in figures}


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


def _versions() -> dict[str, str]:
    packages = {"torch": torch(), "transformers": transformers(), "datasets": datasets()}
    return {
        "python": platform.python_version(),
        **{name: str(package.__version__) for name, package in packages.items()},
    }
