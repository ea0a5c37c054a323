"""The verb generate: one record from the command line, or a file of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from lmkit.cli.printing import json_option, print_json

if TYPE_CHECKING:
    from lmkit.answering import Answerer
    from lmkit.decoding import Answer


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
        "seed": (int, "Makes draws repeatable."),
    }
    for name, (kind, help_) in reversed(flags.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=kind, default=None, help=help_)(command)
    return click.option(
        "--stop", multiple=True, metavar="TEXT", help="A text that ends the answer; repeatable."
    )(command)


@click.command(
    epilog="Example: lmkit generate bundles/qa --set prompt='안녕하세요?' --temperature 0.3 --stream"
)
@click.argument("run_or_bundle")
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
@click.option("--batch-size", default=8, show_default=True, help="Records answered at once.")
@click.option("--stream", is_flag=True, help="Print the answer as it is written.")
@click.option("--threads", type=int, help="Threads to use; all cores if not given.")
@click.option("--no-verify", is_flag=True, help="Skip the bundle's checksums and golden answers.")
@sampling_options
@json_option
def generate(
    run_or_bundle: str,
    columns: Sequence[str],
    input_: str | None,
    output: str | None,
    batch_size: int,
    stream: bool,
    threads: int | None,
    no_verify: bool,
    stop: Sequence[str],
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer records with RUN_OR_BUNDLE: through torch for a run, without it for a bundle.

    What is not said follows the task's own generation settings.
    """
    if (input_ is None) == (not columns):
        raise click.UsageError("give either --set COLUMN=TEXT or --input FILE")
    if stream and (input_ or as_json):
        raise click.UsageError("--stream goes with --set, and without --json")
    options = {name: given for name, given in sampling.items() if given is not None}
    if stop:
        options["stop"] = tuple(stop)
    from lmkit.generation import Generation

    Generation().override(**options)  # a wrong flag is told before anything is loaded
    model = _opened(run_or_bundle, threads=threads, verify=not no_verify)
    if input_ is not None:
        _answer_file(model, input_, output, batch_size, options)
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
        print_json(_line(answer))
    else:
        click.echo(answer.value)


def _opened(source: str, *, threads: int | None, verify: bool) -> Answerer:
    from lmkit.answering import open_answerer
    from lmkit.manifest import MANIFEST_FILE

    if (Path(source) / MANIFEST_FILE).is_file():
        return open_answerer(source, threads=threads, verify=verify)
    return open_answerer(source)


def _record(model: Answerer, columns: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for column in columns:
        name, equals, content = column.partition("=")
        if not equals:
            raise click.UsageError(f"--set {column}: expected COLUMN=TEXT")
        record[name] = content
    if "messages" in model.task.prompt_columns and isinstance(record.get("messages"), str):
        text = record["messages"]
        record["messages"] = (
            json.loads(text) if text.startswith("[") else [{"role": "user", "content": text}]
        )
    return record


def _line(answer: Answer) -> dict[str, Any]:
    return {
        "value": answer.value,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {**attrs.asdict(answer.usage), "total_tokens": answer.usage.total_tokens},
    }


def _answer_file(
    model: Answerer, source: str, output: str | None, batch_size: int, options: dict[str, Any]
) -> None:
    """Answer a file of records in order, some at a time, each batch written before the next."""
    from rich.console import Console
    from rich.progress import Progress

    from lmkit.encoding import prompt_ids
    from lmkit.records import gather, read

    rows = read(source)
    done = _lines_done(Path(output)) if output else 0
    if done > len(rows):
        from lmkit.errors import RecordError

        raise RecordError(
            str(output),
            f"has {done} answers, and '{source}' has {len(rows)} records; "
            "it belongs to another input: choose another --output",
        )
    # Every record is checked before the first is answered: a bad row late in the file costs nothing.
    gather(_checked(row, lambda row: prompt_ids(model.task, row, model.tokenizer)) for row in rows)
    with (
        _writer(output) as write,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        job = progress.add_task("answering", total=len(rows), completed=done)
        for start in range(done, len(rows), batch_size):
            part = rows[start : start + batch_size]
            answers = model.batch(part, **options)
            write(
                [
                    {**row, "answer": _line(answer)}
                    for row, answer in zip(part, answers, strict=True)
                ]
            )
            progress.update(job, completed=start + len(part))
    if output:
        click.echo(
            f"{len(rows)} answers in {output}" + (f" ({done} were there)" if done else ""), err=True
        )


def _checked(row: Any, check: Callable[[Any], Any]) -> Any:
    from lmkit.errors import RecordError

    try:
        check(row)
    except RecordError as error:
        return error
    return row


def _lines_done(path: Path) -> int:
    """Return how many whole answers a file has; a line that a kill cut off is taken out."""
    if not path.exists():
        return 0
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return whole.count(b"\n")


class _writer:  # noqa: N801 - reads as a function at its one use
    """Appends JSON lines to a file, each batch flushed; or prints them."""

    def __init__(self, output: str | None) -> None:
        self._output = output
        self._file: Any = None

    def __enter__(self) -> Callable[[list[dict[str, Any]]], None]:
        if self._output is not None:
            Path(self._output).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._output, "a", encoding="utf-8")
        return self._write

    def _write(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if self._file is None:
            click.echo(text, nl=False)
        else:
            self._file.write(text)
            self._file.flush()

    def __exit__(self, *failure: object) -> None:
        if self._file is not None:
            self._file.close()
