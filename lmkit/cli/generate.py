"""The verb generate: one record from the command line, or a file of them."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from lmkit.cli.options import RAY, check_engine, engine_options, precision_option, threads_option
from lmkit.cli.printing import json_option, print_fills, print_json, progress_bar

if TYPE_CHECKING:
    from lmkit.answering import Answerer
    from lmkit.decoding import Answer
    from lmkit.task import Task


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add one flag for each field of `Generation`."""
    flags = {
        "max_new_tokens": (int, "The most tokens of an answer."),
        "min_new_tokens": (int, "How many tokens come before the answer may end."),
        "temperature": (float, "0 is greedy; higher is more varied."),
        "top_k": (int, "Draw from this many likeliest tokens; 0 is off."),
        "top_p": (float, "Draw from the likeliest tokens with this much probability; 1 is off."),
        "min_p": (float, "Drop tokens below this share of the likeliest's probability; 0 is off."),
        "repetition_penalty": (float, "Above 1 discourages tokens that are already there."),
        "no_repeat_ngram_size": (int, "Never write an n-gram of this size twice; 0 is off."),
        "encoder_no_repeat_ngram_size": (
            int,
            "Never write an n-gram of this size that the prompt or source has; 0 is off.",
        ),
        "forced_bos_token_id": (int, "The id that a seq2seq answer begins with."),
        "forced_eos_token_id": (int, "The id that ends an answer of full length."),
        "num_beams": (int, "Texts that a beam search follows at once; 1 is no search."),
        "length_penalty": (float, "With beams: above 0 favours long texts, below 0 short ones."),
        "early_stopping": (
            click.Choice(["true", "false", "never"]),
            "With beams, end: as soon as there are enough whole texts (true), when a better one is "
            "unlikely (false) or impossible (never).",
        ),
        "prompt_lookup_num_tokens": (
            int,
            "The most tokens guessed from the text so far and checked at once; 0 is off. Greedy "
            "answers stay the same, and come faster where they repeat.",
        ),
        "seed": (int, "Makes draws repeatable."),
    }
    for name, (kind, help_) in reversed(flags.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(
            flag, name, type=kind, default=None, help=help_, callback=_true_or_false
        )(command)
    command = click.option(
        "--suppress-tokens",
        type=int,
        multiple=True,
        metavar="ID",
        callback=lambda context, option, given: given or None,
        help="An id that an answer never has; repeatable.",
    )(command)
    return click.option(
        "--stop", multiple=True, metavar="TEXT", help="A text that ends the answer; repeatable."
    )(command)


def _true_or_false(context: click.Context, option: click.Parameter, given: Any) -> Any:
    """Return what a word means to `Generation`; what is no such word stays as it is."""
    return {"true": True, "false": False}.get(given, given)


@click.command(
    epilog="Example: lmkit generate bundles/qa --set prompt='안녕하세요?' --temperature 0.3 --stream"
)
@click.argument("run_or_bundle", nargs=-1)
@click.option(
    "--chain",
    "chained",
    is_flag=True,
    help="Give several runs or bundles: each one's answer becomes a column of the next one's record.",
)
@click.option(
    "--into",
    multiple=True,
    metavar="COLUMN",
    help="With --chain: the column for each answer but the last, where it is not clear; repeatable.",
)
@click.option("--steps", is_flag=True, help="With --chain: print every link's answer.")
@click.option("--task", help="Which of a mixture's tasks to do; or the task, for any other model.")
@click.option(
    "--set",
    "columns",
    multiple=True,
    metavar="COLUMN=TEXT",
    help="A column of the record to answer; repeatable. A chat takes messages=TEXT, one user turn.",
)
@click.option("--input", "input_", metavar="FILE", help="Records to answer; - is standard input.")
@click.option(
    "--output",
    type=click.Path(),
    help="Where the answers go, as JSON lines; without, "
    "to standard output. A file that is there already is continued where it stopped.",
)
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Records answered at once.",
)
@click.option("--stream", is_flag=True, help="Print the answer as it is written.")
@threads_option
@precision_option
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Check the bundle's checksums and golden answers before anything is answered, or its sizes "
    "and golden prompts' ids only; if not said, with --input the former and with --set the latter.",
)
@engine_options(workers=True)
@sampling_options
@json_option
def generate(
    run_or_bundle: Sequence[str],
    chained: bool,
    into: Sequence[str],
    steps: bool,
    task: str | None,
    columns: Sequence[str],
    input_: str | None,
    output: str | None,
    batch_size: int,
    stream: bool,
    threads: int | None,
    precision: str | None,
    verify: bool | None,
    engine: str,
    workers: int | None,
    address: str | None,
    stop: Sequence[str],
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer records with RUN_OR_BUNDLE: through torch for a run, without it for a bundle.

    With --task it may be any model: a hub id, a folder or a .gguf file.

    What is not said follows the task's own generation settings. With --chain there are several,
    such as 'lmkit generate --chain bundles/summarize bundles/classify --set text=...'.
    """
    _check_links(run_or_bundle, chained=chained, only_chain=bool(into) or steps, task=task)
    if (input_ is None) == (not columns):
        raise click.UsageError("give either --set COLUMN=TEXT or --input FILE")
    if stream and (input_ or as_json):
        raise click.UsageError("--stream goes with --set, and without --json")
    if output and input_ is None:
        raise click.UsageError("--output goes with --input")
    check_engine(engine, workers=workers, address=address)
    if engine == RAY and (input_ is None or input_ == "-"):
        raise click.UsageError("--engine ray goes with --input FILE, which is read more than once")
    options = {name: given for name, given in sampling.items() if given is not None}
    if stop:
        options["stop"] = tuple(stop)
    check_options(options)
    open_one = functools.partial(
        open_source,
        precision=precision,
        # To answer the golden prompts takes longer than one answer, and reading every byte nearly so.
        verify=input_ is not None if verify is None else verify,
    )
    open_all = functools.partial(
        _open_all, run_or_bundle, into if chained else None, task, open_one
    )
    if engine == RAY and input_ is not None:
        from lmkit.cli.clustered import answer_on_cluster

        answer_on_cluster(
            input_,
            output,
            open_all,
            options,
            batch_size=batch_size,
            groups=(workers, threads),
            address=address,
            as_json=as_json,
        )
        return
    model = open_all(threads=threads)
    if input_ is not None:
        _answer_file(model, input_, output, batch_size, options, as_json=as_json)
        return
    record = _record(model, columns)
    if stream:
        for piece in model.stream(record, **options):
            click.echo(piece, nl=False)
            sys.stdout.flush()
        click.echo()
        return
    answer = model(record, **options)
    if as_json:
        from lmkit.answering.lines import line_of

        print_json(line_of(answer))
    else:
        _print_answer(model, answer, steps=steps)


def _print_answer(model: Any, answer: Answer, *, steps: bool) -> None:
    """Print an answer; of a chain the last link's, and before it the others' if asked for."""
    links = getattr(model, "links", (model,))
    answers = getattr(answer, "steps", (answer,))
    for link, one in list(zip(links, answers, strict=True))[0 if steps else -1 :]:
        print_value(link.task, one)


def print_value(task: Task, answer: Answer) -> None:
    """Print an answer: a text, a label with every label's probability, or ranked fills."""
    from lmkit.decoding.fills import FillMaskDecoder

    value = answer.value
    if isinstance(task.decoder, FillMaskDecoder):
        print_fills(value)
    else:
        click.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for label, probability in (answer.probabilities or {}).items():
            click.echo(f"  {label}  {probability:.4f}")


def _check_links(
    sources: Sequence[str], *, chained: bool, only_chain: bool, task: str | None
) -> None:
    """Tell what does not go together before anything is loaded."""
    if not sources:
        raise click.UsageError("Missing argument 'RUN_OR_BUNDLE'.")
    if chained:
        if len(sources) < 2:
            raise click.UsageError("--chain goes with two runs or bundles, or more")
        if task is not None:
            raise click.UsageError("--task goes without --chain")
    elif len(sources) > 1:
        raise click.UsageError(f"{len(sources)} runs or bundles go with --chain only")
    elif only_chain:
        raise click.UsageError("--into and --steps go with --chain")


def _open_all(
    sources: Sequence[str],
    into: Sequence[str] | None,
    task: str | None,
    open_one: Callable[..., Any],
    **options: Any,
) -> Any:
    """Open what answers: one model, or with `into` (which may be empty) a chain of them.

    It may run on another machine, so that all it needs is in its arguments.
    """
    if into is None:
        return open_one(sources[0], task, **options)
    from lmkit.answering.chaining import chain

    return chain(*(open_one(source, **options) for source in sources), columns=into)


def _shown(answer: Answer) -> str:
    value = answer.value
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_options(options: dict[str, Any]) -> None:
    """Tell a wrong flag before anything is loaded."""
    from lmkit.generation import Generation

    # How long an answer may be is the task's to say, and it may be more than the default.
    Generation(max_new_tokens=sys.maxsize).override(**options)


def open_source(
    source: str,
    task: str | None = None,
    *,
    threads: int | None,
    precision: str | None,
    verify: bool,
) -> Answerer:
    """Open a run, a bundle, or a model that is to do a task; only a bundle is verified."""
    from lmkit.answering import open_answerer
    from lmkit.saving.manifest import MANIFEST_FILE

    if (Path(source) / MANIFEST_FILE).is_file():
        return open_answerer(source, task, threads=threads, precision=precision, verify=verify)
    return open_answerer(source, task, precision=precision)


def _record(model: Answerer, columns: Sequence[str]) -> dict[str, Any]:
    from lmkit.renaming import messages_column

    record: dict[str, Any] = {}
    for column in columns:
        name, equals, content = column.partition("=")
        if not equals:
            raise click.UsageError(f"--set {column}: expected COLUMN=TEXT")
        record[name] = content
    _check_columns(model, record)
    messages = messages_column(model.task.formatter)
    if messages is not None and messages in record:
        record[messages] = _turns(record[messages])
    return record


def _check_columns(model: Any, record: dict[str, Any]) -> None:
    """Refuse a column that nothing reads; one that is misspelt would be missed nowhere."""
    from lmkit.errors import UnknownName

    tasks = [link.task for link in getattr(model, "links", (model,))]
    known = [column for task in tasks for column in (*task.prompt_columns, *task.columns)]
    for name in record:
        if name not in known:
            raise UnknownName("column", name, dict.fromkeys(known))


def _turns(text: str) -> Any:
    """Return the messages that a text means: a JSON list of them, or one user turn."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, list) else [{"role": "user", "content": text}]


def _answer_file(
    model: Answerer,
    source: str,
    output: str | None,
    batch_size: int,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Answer a file of records in order, some at a time, each written as soon as those before it are."""
    from lmkit.answering.lines import answered, answers_in, appending, checked, dump
    from lmkit.batching.ordered import in_order
    from lmkit.records import gather, read

    rows = read(source)
    done = answers_in(Path(output), rows) if output else 0
    # Every record is checked before the first is answered: a bad row late in the file costs nothing.
    gather(checked(model, row) for row in rows)
    lines: list[dict[str, Any]] = []
    with (
        appending(Path(output)) if output else contextlib.nullcontext(print_lines) as write,
        progress_bar() as progress,
    ):
        job = progress.add_task("answering", total=len(rows), completed=done)
        rest = iter(rows[done:])
        for answers in in_order(model, rows[done:], options, batch_size=batch_size):
            some = [answered(row, answer) for answer, row in zip(answers, rest, strict=False)]
            if as_json and not output:
                lines += some
            else:
                write([dump(line) for line in some])
            progress.advance(job, len(some))
    if as_json and not output:
        print_json(lines)
    elif output:
        print_written(output, len(rows), done, as_json=as_json)


def print_lines(lines: Sequence[str], file: IO[str] | None = None) -> None:
    """Print answers' lines, on standard output if nothing else is said."""
    click.echo("".join(f"{line}\n" for line in lines), nl=False, file=file)


def print_written(output: str, records: int, already_there: int, *, as_json: bool) -> None:
    """Say what a file of answers has come to."""
    if as_json:
        print_json({"output": output, "records": records, "already_there": already_there})
        return
    there = f" ({already_there} were there)" if already_there else ""
    click.echo(f"{records} answers in {output}{there}", err=True)
