"""The verb preview: what a model would be trained on, token by token, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from lmkit.cli.options import rename_option, renamed_task, row_options, with_row_options
from lmkit.cli.printing import json_option, print_json, progress_bar

if TYPE_CHECKING:
    from lmkit.previewing import Preview


@click.command(
    epilog="Example: lmkit preview chat --model path/to/model --data train.jsonl --html preview.html"
)
@click.argument("task")
@click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="[TASK=]DATA",
    help="Records to learn from; see 'lmkit train --help'.",
)
@click.option(
    "--model",
    help="A hub id, a folder or a .gguf file, of which only the tokenizer and the config are read.",
)
@click.option(
    "--tokenizer",
    help="A folder or tokenizer.json; or one learned from the data, as for 'lmkit train'.",
)
@click.option(
    "--eval-data",
    multiple=True,
    metavar="[TASK=]DATA",
    help="Records to be measured on: those that are also learned from are found.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    help="How many of the first rows to show: 2, or 50 with --html.",
)
@click.option(
    "--row",
    "choose",
    multiple=True,
    type=click.IntRange(min=0),
    help="Show this row, counted from 0; may be repeated.",
)
@click.option(
    "--full", is_flag=True, help="Write long rows out, rather than leave out their middle."
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first so many records only.")
@click.option(
    "--on-bad-row",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Gather up to ten records that do not fit, and stop; or count them.",
)
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page to look at instead.")
@rename_option
@row_options
@json_option
def preview(
    task: str,
    data: Sequence[str],
    model: str | None,
    tokenizer: str | None,
    eval_data: Sequence[str],
    rows: int | None,
    choose: Sequence[int],
    full: bool,
    limit: int | None,
    on_bad_row: str,
    html: str | None,
    renames: Sequence[str],
    max_length: int | None,
    pad_to_max_length: bool,
    as_json: bool,
) -> int:
    """Show what a model would be trained on for TASK, and what is wrong with it.

    Each token is learned, read, left out because the row is too long, or a control token. Exits with 1
    if there is a finding with which training would be refused.
    """
    from lmkit.cli.train import data_of
    from lmkit.mixing import by_task, tasks_of
    from lmkit.previewing.looking import ROWS, ROWS_OF_PAGE
    from lmkit.previewing.looking import preview as look
    from lmkit.registry import get_task
    from lmkit.vocabulary import parse_tokenizer

    found = with_row_options(
        renamed_task(get_task(task), renames), max_length, pad_to_max_length=pad_to_max_length
    )
    sources = data_of(found, data, "--data")
    if sources == "-":
        from lmkit.records import iterate

        sources = list(iterate(sources))  # standard input can be read once only
    ready = (
        None
        if tokenizer is None
        else parse_tokenizer(tokenizer, sources, found, on_bad_row=on_bad_row)
    )
    evals: Any = [None] * len(tasks_of(found))
    if eval_data:
        given = data_of(found, eval_data, "--eval-data")
        evals = by_task(found, given, option="--eval-data", all_=False)
    previews = []
    with progress_bar() as progress:
        for one, source, measured in zip(
            tasks_of(found), by_task(found, sources, option="--data"), evals, strict=True
        ):
            job = progress.add_task(one.name, total=None)
            seen = look(
                one,
                data=source,
                model=model,
                tokenizer=ready,
                eval_data=measured,
                rows=(ROWS_OF_PAGE if html else ROWS) if rows is None else rows,
                choose=choose,
                limit=limit,
                on_bad_row=on_bad_row,
                on_progress=_bar(progress, job),
            )
            previews.append(attrs.evolve(seen, model=model or tokenizer or seen.model))
    if html:
        _write_pages(previews, Path(html))
    if as_json:
        from lmkit.previewing.saving import document

        print_json(document(previews))
    elif not html:
        _print(previews, whole=full)
    else:
        _print_short(previews)
    return int(any(found.worst == "error" for found in previews))


def _bar(progress: Any, job: Any) -> Any:
    return lambda done, total: progress.update(job, completed=done, total=total)


def _print(previews: Sequence[Preview], *, whole: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from lmkit.previewing.printing import print_preview

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    for found in previews:
        if len(previews) > 1:
            console.rule(Text(found.task))
        print_preview(found, console, whole=whole)


def _print_short(previews: Sequence[Preview]) -> None:
    from rich.console import Console

    from lmkit.previewing.printing import findings, totals

    console = Console(highlight=False)
    for found in previews:
        if len(previews) > 1:
            console.print(found.task, style="bold")
        for line in totals(found.totals):
            console.print(line)
        console.print(findings(found.findings))


def _write_pages(previews: Sequence[Preview], file: Path) -> None:
    """Write a page of each task; of a mixture's, each in a file of its own."""
    from lmkit.files import folder_for, write_atomically
    from lmkit.previewing.page import page

    folder_for(file)
    for found in previews:
        own = file if len(previews) == 1 else file.with_stem(f"{file.stem}-{found.task}")
        write_atomically(own, page(found))
        click.echo(f"wrote {own}", err=True)
