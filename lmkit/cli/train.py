"""Verbs that need the data: train, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lmkit.cli.options import (
    bad_row_option,
    cache_options,
    pack_option,
    pairs,
    precision_option,
    rename_option,
    renamed_task,
    row_options,
    with_row_options,
)
from lmkit.cli.printing import json_option, print_figures, print_json, progress_bar


@click.command(
    epilog="Example: lmkit train qa --model scratch:gpt2,n_layer=4,n_embd=256,n_head=4 "
    "--tokenizer bpe:8000 --data train.jsonl --output runs/qa --set num_train_epochs=3"
)
@click.argument("task")
@click.option(
    "--model",
    required=True,
    help="A hub id, a local folder, a .gguf file, or scratch:TYPE,name=value,... for random "
    "weights in any transformers architecture.",
)
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="[TASK=]DATA",
    help="Records to learn from: .jsonl, .json, .csv, .parquet, "
    ".txt (each line a record, or for char-lm one text), a datasets folder or hub name, or - for JSON "
    "lines on standard input. For a mixture one for each task, such as --data qa=a.jsonl "
    "--data alpaca=b.jsonl.",
)
@click.option(
    "--eval-data",
    multiple=True,
    metavar="[TASK=]DATA",
    help="Records to measure perplexity on, after every epoch.",
)
@click.option(
    "--eval-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Hold out this much of the data to measure on, such as 0.2: of records some from all over, "
    "of one text its last part. It is put into the run, as eval.jsonl, for 'lmkit evaluate'.",
)
@click.option("--output", required=True, type=click.Path(), help="The run's folder, to be made.")
@click.option(
    "--tokenizer",
    help="A folder or tokenizer.json; or one learned from the data: bpe:8000, wordpiece:8000, "
    "unigram:8000, or char, which refuses text with characters that are not in the data; char:unk "
    "reads them as unknown.",
)
@click.option(
    "--pad",
    metavar="TOKEN",
    help="The pad token, such as [PAD]; added if new. Without, the tokenizer's own or its EOS.",
)
@click.option(
    "--adapter",
    metavar="KIND:NAME=VALUE,...",
    help="Train a few weights beside the model, and keep only those: lora:r=8,lora_alpha=16 or "
    "prompt_tuning:num_virtual_tokens=8,init_text=...",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any of transformers' TrainingArguments, such as learning_rate=3e-5; may be repeated.",
)
@rename_option
@row_options
@pack_option
@click.option(
    "--sample",
    default=0,
    type=click.IntRange(min=0),
    help="Show this many answers before training, after it, and whenever it is measured.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an interrupted run in the output folder; the result "
    "is that of a run that was never interrupted.",
)
@click.option(
    "--ignore-findings",
    is_flag=True,
    help="Train also on data in which 'lmkit preview' finds an error.",
)
@bad_row_option
@cache_options
@json_option
def train(
    task: str,
    model: str,
    data: Sequence[str],
    eval_data: Sequence[str],
    eval_fraction: float | None,
    output: str,
    tokenizer: str | None,
    pad: str | None,
    adapter: str | None,
    settings: Sequence[str],
    renames: Sequence[str],
    max_length: int | None,
    pad_to_max_length: bool,
    pack: bool,
    sample: int,
    resume: bool,
    ignore_findings: bool,
    on_bad_row: str,
    no_cache: bool,
    explain_cache: bool,
    num_proc: int,
    as_json: bool,
) -> None:
    """Train a model on TASK and write a run.

    TASK is a registered name, path/to/file.py:attribute (a task, or a mixture of several), or a
    task.json. The run is a folder that
    transformers can load, with task.json and metrics.jsonl in it. Started by torchrun or accelerate
    launch ('torchrun --nproc-per-node 2 -m lmkit train ...'), several processes train one model.
    """
    from lmkit.errors import MissingExtra
    from lmkit.mixing import Mixture
    from lmkit.records import iterate
    from lmkit.registry import get_task
    from lmkit.vocabulary import parse_tokenizer

    try:
        from lmkit.train import ranks
        from lmkit.train.run import train as train_run
        from lmkit.train.sessions import typed
    except ModuleNotFoundError as error:
        raise MissingExtra("training", "train", error.name) from error

    found = renamed_task(get_task(task), renames)
    found = with_row_options(found, max_length, pad_to_max_length=pad_to_max_length, pack=pack)
    arguments = parse_settings(settings)
    rows = data_of(found, data, "--data")
    if rows == "-" and ranks.world_size() > 1:
        raise click.UsageError(
            "--data -: standard input can be read by one process only; put the records into a file"
        )
    if rows == "-":
        rows = list(iterate(rows))  # standard input can be read once only
    learned = None
    if tokenizer is not None:
        ranks.join(arguments)  # the first one learns it; learning may depend on chance
        learned = ranks.first(
            lambda: parse_tokenizer(tokenizer, rows, found, on_bad_row=on_bad_row)
        )
    with typed(click.get_current_context().find_root().obj):
        run = train_run(
            found,
            model=model,
            data=rows,
            eval_data=data_of(found, eval_data, "--eval-data") if eval_data else None,
            eval_fraction=eval_fraction,
            output=output,
            tokenizer=learned,
            pad=pad,
            adapter=adapter,
            sample=sample,
            resume=resume,
            on_bad_row=on_bad_row,
            cache=not no_cache,
            explain_cache=explain_cache,
            num_proc=num_proc,
            ignore_findings=ignore_findings,
            **arguments,
        )
    if not ranks.is_first():
        return
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "task": run.task.name,
                "parameters": run.parameters,
                "metrics": dict(run.metrics),
            }
        )
        return
    cut = run.cut
    if cut["rows"]:
        click.echo(
            f"{cut['rows']} rows were cut to {cut['max_length']} tokens; "
            f"{cut['ids']} tokens were left out",
            err=True,
        )
    if run.n_empty:
        click.echo(f"{run.n_empty} rows had nothing to learn", err=True)
    click.echo(f"trained '{run.task.name}' into {run.path}")
    if adapter is not None:
        count, of = run.parameters["trainable"], run.parameters["all"]
        click.echo(
            f"trained {count:,} of {of:,} parameters, {count / of:.3%}; the rest is as it was"
        )
    print_figures(dict(run.metrics))
    choose = f" --task {run.task.tasks[0].name}" if isinstance(run.task, Mixture) else ""
    click.echo(f"report: {run.path / 'report.html'}")
    click.echo(f"next: lmkit export {run.path}{choose} --output bundles/{run.path.name}")


@click.command(epilog="Example: lmkit evaluate bundles/qa --data test.jsonl --json")
@click.argument("run_or_bundle")
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="[TASK=]DATA",
    help="Records with their answers; see 'lmkit train --help'.",
)
@click.option(
    "--task",
    help="Which of a mixture's tasks to measure; or the task, where a run has lost its transforms, "
    "and for any model that is no run: a hub id, a folder or a .gguf file.",
)
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows in one forward pass.",
)
@bad_row_option
@precision_option
@json_option
def evaluate(
    run_or_bundle: str,
    data: Sequence[str],
    task: str | None,
    batch_size: int,
    on_bad_row: str,
    precision: str | None,
    as_json: bool,
) -> None:
    """Measure RUN_OR_BUNDLE: perplexity over learned tokens, and the task's own metrics.

    A run is measured through torch, a bundle without it. Of a run that learned a mixture, name each
    task with its data, as --data TASK=FILE, or one with --task.
    """
    from lmkit.answering import open_answerer
    from lmkit.evaluating import evaluate as measure
    from lmkit.registry import get_task

    own = Path(run_or_bundle) / "task.json"
    found = get_task(own) if task is None and own.is_file() else None
    measured: Any = run_or_bundle
    if precision is not None:
        measured, task = open_answerer(run_or_bundle, task, precision=precision), None
    with progress_bar() as progress:
        job = progress.add_task("evaluating", total=None)
        figures = measure(
            measured,
            data=data_of(found, data, "--data"),
            task=task,
            batch_size=batch_size,
            on_bad_row=on_bad_row,
            on_progress=lambda done, total: progress.update(job, completed=done, total=total),
        )
    if as_json:
        print_json(figures)
    else:
        print_figures(figures)


def data_of(task: Any, given: Sequence[str], option: str) -> Any:
    """Return what `--data` says: one source, or for a mixture one for each task by its name."""
    from lmkit.mixing import Mixture

    if isinstance(task, Mixture):
        return pairs(given, option, f"TASK=DATA, such as {task.tasks[0].name}=data.jsonl")
    if len(given) > 1:
        raise click.UsageError(f"{option} is given {len(given)} times, which is for a mixture")
    return given[0]


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return what `--set name=value` options say."""
    from lmkit.scratch import parse_value

    parsed = {}
    for setting in settings:
        name, equals, content = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set {setting}: expected NAME=VALUE, such as max_steps=100")
        parsed[name.strip()] = parse_value(content)
    return parsed
