"""Train: a task, a model and records become a Run.

The training itself is transformers' Trainer; what varies is passed in. See `lmkit.train.folder` for
what it leaves behind.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lmkit
from lmkit.adapters import Adapter, as_adapter
from lmkit.chat.rendering import at_time, now
from lmkit.collating import Stream
from lmkit.collating.packing import Packed
from lmkit.encoding import Encoded
from lmkit.errors import LmkitError, OutputExists
from lmkit.files import no_empty_folder, write_atomically
from lmkit.mixing import Mixture, tasks_of
from lmkit.previewing import Preview
from lmkit.previewing.saving import PREVIEW_FILE, save
from lmkit.records import STOP, Data
from lmkit.registry import get_task
from lmkit.saving.jsonform import dump, from_json, to_json
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train import adapting, ranks
from lmkit.train.arguments import checked_arguments
from lmkit.train.batches import as_tensors
from lmkit.train.extra import datasets, torch, transformers
from lmkit.train.folder import (
    METRICS_FILE,
    TASK_FILE,
    Run,
    check_same,
    last_checkpoint,
    read_about,
    save_model,
    task_document,
)
from lmkit.train.inspecting import check_findings, inspected, show
from lmkit.train.lengths import fitted
from lmkit.train.lessons import (
    Lesson,
    data_account,
    encoded,
    feed_of,
    open_lessons,
    write_held_out,
    write_skipped,
)
from lmkit.train.models import load_model
from lmkit.train.packing import check_packing, flat_batch, reads_flat
from lmkit.train.preparing.caching import Preparation
from lmkit.train.preparing.prepared import counts_of
from lmkit.train.quiet import quiet
from lmkit.train.sessions import command, machine, session, settings, without_secrets
from lmkit.train.special import align_all


def train(
    task: Task | Mixture | str,
    *,
    model: Any,
    data: Data | Mapping[str, Data],
    output: str | Path,
    eval_data: Data | Mapping[str, Data] | None = None,
    eval_fraction: float | None = None,
    sample: int = 0,
    tokenizer: Any = None,
    pad: str | None = None,
    adapter: Adapter | str | None = None,
    resume: bool = False,
    ignore_findings: bool = False,
    on_bad_row: str = STOP,
    cache: bool | str | Path = True,
    explain_cache: bool = False,
    num_proc: int = 1,
    **arguments: Any,
) -> Run:
    """Train a model on a task's records.

    Under torchrun or `accelerate launch` the processes train one model together: each step's loss
    is the mean over what all of them learn in it, so that as many rows in a step give the same run
    however many processes they fall into. The first one writes the run.

    Args:
        task: a task, the name of one, or a mixture of several; see `mix`.
        model: a hub id, a local folder, a `.gguf` file, or `scratch(...)`.
        data: a file, a `datasets` folder or hub name, or records in memory; for a mixture a mapping
            from each task's name to its data.
        output: the folder to make. It must not exist, unless `resume`.
        eval_data: records to measure loss and perplexity on, after every epoch; of a mixture each
            task's, or some tasks'.
        eval_fraction: hold out this much of the data, between 0 and 1, and measure on it: the split
            of `datasets`' `train_test_split` with the run's seed, of one text its last part. What
            is held out is put into the run, as `eval.jsonl`.
        sample: answer this many records, of each task, before training, whenever the model is
            measured, and at the end: of those that are measured if there are any. The answers are
            shown on standard error and kept in the run, as `samples.jsonl`.
        tokenizer: a folder or a tokenizer; None for the model's own.
        pad: the pad token; see `lmkit.train.models.load_model`.
        adapter: `lora(...)` or `prompt_tuning(...)`, or its text form: train this beside the model,
            whose own weights stay as they are and are not written again.
        resume: continue from the output's last checkpoint, as if there had been no interruption;
            a run that has finished is returned as it is.
        ignore_findings: train also on data in which something is wrong; see `preview`. What was
            found is kept in the run, as `preview.json`.
        on_bad_row: what a row does that cannot be read or does not fit the task: `stop` gathers up
            to ten and raises them; `skip` leaves them out, with a warning, and lists them in the
            run, as `skipped.jsonl`.
        cache: whether the prepared rows of files are kept for the next time, or the folder to keep
            them in; see `lmkit.train.preparing.caching`. Data in memory is never cached.
        explain_cache: say on standard error whether they were there, and if not why.
        num_proc: how many processes prepare the rows of a file.
        arguments: any of transformers' TrainingArguments.
    Returns:
        The run; `run.metrics` has the last figures.
    Raises:
        UnknownOption: an argument that TrainingArguments does not have; near names are listed.
        OutputExists: the output is there and `resume` was not asked for.
        RecordError: the data does not fit the task.
        FindingsError: the data would teach something wrong, such as never to stop.
        ModelError: the model cannot be loaded, does not take the adapter, or the run to resume is
            another one.
        MissingExtra: an adapter is asked for, and peft is not installed.
    """
    typed = command(
        task,
        model=model,
        data=data,
        output=output,
        eval_data=eval_data,
        eval_fraction=eval_fraction,
        sample=sample or None,
        tokenizer=tokenizer,
        pad=pad,
        adapter=adapter,
        resume=resume or None,
        ignore_findings=ignore_findings or None,
        on_bad_row=None if on_bad_row == STOP else on_bad_row,
        num_proc=None if num_proc == 1 else num_proc,
        **arguments,
    )
    joined = ranks.join(arguments)
    what = get_task(task)
    adapter = as_adapter(adapter)
    base = "" if adapter is None else adapting.base_name(model, adapter, what.family)
    options = checked_arguments(joined)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise LmkitError(f"sample is {sample!r}; expected how many records to answer, or 0")
    folder = Path(output)
    ranks.first(lambda: _check_free(folder, resume=resume))
    seed = int(options.get("seed", 42))
    how = Preparation(cache=cache, on_bad_row=on_bad_row, processes=num_proc)
    lessons = open_lessons(
        what,
        data=data,
        eval_data=eval_data,
        eval_fraction=eval_fraction,
        seed=seed,
        on_bad_row=on_bad_row,
    )
    loaded = load_model(
        model, family=what.family, tokenizer=tokenizer, pad=pad, seed=seed, grows=adapter is None
    )
    if adapter is None:
        adapting.check_whole(loaded)
    else:
        loaded = adapting.adapted(loaded, adapter, family=what.family, base=base, seed=seed)
    tasks = [fitted(task, loaded.model) for task in tasks_of(what)]
    ready, _ = align_all(loaded.model, loaded.tokenizer, tasks)
    tasks = [_portable(task) for task in tasks]
    what = what.with_tasks(tasks) if isinstance(what, Mixture) else tasks[0]
    if what.loss is not None:
        what.loss.prepare(ready)  # a key token that is not there is told before any work
    started = ranks.share(read_about(folder).get("started", now()) if resume else now())
    with at_time(started):
        lessons = ranks.first_before_others(
            lambda: [
                encoded(*pair, ready, moment=started, how=how)
                for pair in zip(lessons, tasks, strict=True)
            ]
        )
    if explain_cache and ranks.is_first():
        for line in (line for lesson in lessons for line in lesson.explained):
            print(f"prepared rows of {line}", file=sys.stderr)
    about = {
        **_account(what, lessons, started),
        "model": loaded.name,
        "tokenizer": ready.fingerprint,
        "eval_fraction": eval_fraction,
        "data": data_account(what, lessons),
        "arguments": without_secrets(arguments),
        "adapter": None if adapter is None else str(adapter),
        "parameters": _parameters(loaded.model),
        "base": loaded.base,
        "finished": False,
    }
    if ranks.world_size() > 1:
        about["processes"] = ranks.world_size()
        _check_agreement(about)
    if resume:
        ranks.first(lambda: check_same(folder, what, about))
        before = ranks.share(read_about(folder))
        if before.get("finished"):
            return Run(folder, what, before["metrics"])
    previews: list[Preview] = []

    def look() -> None:
        with at_time(started):
            previews.extend(inspected(lessons, ready, model=loaded.name))
        show(previews)
        if not ignore_findings:
            check_findings(previews)

    ranks.first(look)
    caches = getattr(loaded.model.config, "use_cache", True)  # a pair's config does not say
    with no_empty_folder(folder):
        trainer = _trainer(what, loaded.model, ready, folder, options, lessons)
        if sample and trainer.is_fsdp_enabled:
            raise LmkitError(
                "sample cannot be used with fsdp: no process has a whole model that could answer"
            )
    if sample and ranks.is_first():
        trainer.add_callback(_sampler(loaded.model, ready, folder, lessons, sample, seed))
    about |= {"settings": settings(trainer.args, options), "machine": machine(trainer.args.device)}
    if ranks.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        save(previews, folder / PREVIEW_FILE)
        write_atomically(folder / TASK_FILE, dump(task_document(what)))
    with ranks.only_first(session(folder, about, trainer, typed)):
        if ranks.is_first():
            write_held_out(folder, lessons)
            write_skipped(folder, lessons)
        metrics = _run_trainer(trainer, folder, resume=resume)
        loaded.model.config.use_cache = caches  # Trainer turns it off for its own steps
        weights = trainer.whole_weights()
        if ranks.is_first():
            save_model(loaded.model, ready, folder, weights)
        about |= {"finished": True, "metrics": metrics}
    ranks.wait()
    return Run(folder, what, metrics)


def _check_free(folder: Path, *, resume: bool) -> None:
    """Refuse an output that is there; before anything is written, as a bad one costs a training."""
    if folder.is_file() or (folder.is_dir() and not resume and any(folder.iterdir())):
        raise OutputExists(folder, remedy="choose another output, or continue it with --resume")


def _check_agreement(about: Mapping[str, Any]) -> None:
    """Refuse to train one model with processes that have read different things."""
    ranks.agree("data", about["data"]["encoded"])
    ranks.agree("tokenizer", about["tokenizer"])
    ranks.agree("model", about["parameters"])
    ranks.agree("version of lmkit or a library", about["versions"] | {"lmkit": about["lmkit"]})


def _account(what: Task | Mixture, lessons: Sequence[Lesson], started: str) -> dict[str, Any]:
    """Return when a run began, with which versions, and what of its rows is not learned."""
    n_cut = np.concatenate([counts_of(lesson.encoded, "n_cut") for lesson in lessons])
    n_learned = np.concatenate([counts_of(lesson.encoded, "n_learned") for lesson in lessons])
    return {
        "lmkit": lmkit.__version__,
        "versions": _versions(),
        "started": started,
        "cut": {
            "rows": int((n_cut > 0).sum()),
            "ids": int(n_cut.sum()),
            "max_length": what.collator.max_length,
        },
        "empty": int((n_learned == 0).sum()),
        "skipped": sum(len(lesson.skipped) + len(lesson.eval_skipped) for lesson in lessons),
        "prepared": [line for lesson in lessons for line in lesson.explained],
    }


def _parameters(model: Any) -> dict[str, int]:
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "trainable": sum(count for count, trained in counts if trained),
        "all": sum(count for count, _ in counts),
    }


def _portable(task: Task) -> Task:
    """Return the task as its JSON describes it, so that a run does not depend on other files.

    Its transforms stay as they are: only training needs them, so they may be without a name.
    """
    plain = from_json(to_json(task.evolve(transforms=())), Task)
    return plain.evolve(transforms=task.transforms)


def _trainer(
    what: Task | Mixture,
    model: Any,
    tokenizer: Tokenizer,
    folder: Path,
    options: Mapping[str, Any],
    lessons: Sequence[Lesson],
) -> Any:
    from lmkit.train.feeding import CountEpochs, MeasuredRows, TrainingRows
    from lmkit.train.progress import KeepReport, MetricsLog, Progress, SaveBeside
    from lmkit.train.trainer import TaskTrainer

    pad_id = tokenizer.pad_id
    assert pad_id is not None

    collator, mixed, options = what.collator, isinstance(what, Mixture), dict(options)

    flat = reads_flat(model)

    def collate(rows: Sequence[Encoded]) -> dict[str, Any]:
        groups = np.array([row.group for row in rows], dtype=np.int64)
        sequences = [row for row in rows if isinstance(row, Packed)]
        if flat and sequences:
            batch, groups = flat_batch(sequences), np.repeat(groups, list(map(len, rows)))[None]
        else:
            batch = collator.collate(rows, pad_id)
        return as_tensors({**batch, "group": groups} if mixed else batch)

    task_loss = None if what.loss is None else what.loss.prepare(tokenizer)
    if task_loss is not None and options.get("label_smoothing_factor"):
        raise LmkitError(
            f"label_smoothing_factor cannot be set: the task's {type(what.loss).__name__} is the loss"
        )
    train_set = TrainingRows(feed_of(what, lessons, tokenizer), int(options.get("seed", 42)))
    measured = {
        lesson.task.name: MeasuredRows(
            lesson.task.collator.measured(lesson.eval_encoded, tokenizer)
        )
        for lesson in lessons
        if lesson.eval_encoded
    }
    eval_set = (measured if mixed else measured[what.name]) if measured else None
    packs = getattr(collator, "pack", False)
    one_length = packs or getattr(collator, "pad_to_max_length", False)
    if not one_length and not isinstance(collator, Stream):
        options.setdefault("train_sampling_strategy", "group_by_length")
    options.setdefault("dataloader_pin_memory", torch().cuda.is_available())
    if eval_set is not None:
        options.setdefault("eval_strategy", "epoch")
    try:
        arguments = transformers().TrainingArguments(
            output_dir=str(folder), remove_unused_columns=False, disable_tqdm=True, **options
        )
        trainer = TaskTrainer(
            family=what.family,
            task_loss=task_loss,
            groups=tuple(task.name for task in tasks_of(what)) if mixed else (),
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
    if packs:
        check_packing(model, lessons[0].encoded[:3])
    if ranks.is_first():
        trainer.add_callback(Progress())
        trainer.add_callback(MetricsLog(folder / METRICS_FILE))
    trainer.add_callback(SaveBeside(model, tokenizer, folder / TASK_FILE))
    if ranks.is_first():
        trainer.add_callback(KeepReport())
    return trainer


def _sampler(
    model: Any,
    tokenizer: Tokenizer,
    folder: Path,
    lessons: Sequence[Lesson],
    count: int,
    seed: int,
) -> Any:
    """Return what answers some records of each task as training goes on."""
    from lmkit.train.answering import through_torch
    from lmkit.train.samples import SAMPLES_FILE, SampleAnswers, choose

    groups = {}
    for lesson in lessons:
        answerer = through_torch(lesson.task, model, tokenizer)
        rows, name = lesson.eval_rows or lesson.rows, lesson.eval_name
        groups[lesson.task.name] = choose(answerer, rows, count, name=name)
    return SampleAnswers(groups, folder / SAMPLES_FILE, seed)


def _run_trainer(trainer: Any, folder: Path, *, resume: bool) -> dict[str, float]:
    checkpoint = ranks.share(last_checkpoint(folder)) if resume else None
    with quiet():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    figures: dict[str, float] = {}
    for entry in trainer.state.log_history:
        figures |= {key: value for key, value in entry.items() if isinstance(value, (int, float))}
    wanted = ("train_loss", "eval_loss", "eval_perplexity", "train_runtime", "epoch", "step")
    by_task = [key for key in figures if key.endswith(("_loss", "_perplexity"))]
    return {key: figures[key] for key in dict.fromkeys([*wanted, *by_task]) if key in figures}


def _versions() -> dict[str, str]:
    import tokenizers

    packages = {"torch": torch(), "transformers": transformers(), "datasets": datasets()}
    packages["tokenizers"] = tokenizers
    return {
        "python": platform.python_version(),
        **{name: str(package.__version__) for name, package in packages.items()},
    }
