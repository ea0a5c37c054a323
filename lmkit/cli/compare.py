"""The verb compare: two models' answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.generate import check_options, sampling_options
from lmkit.cli.printing import json_option, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from lmkit.comparing import Comparison, Pair


@click.command(epilog="Example: lmkit compare base-model runs/qa --data test.jsonl --limit 5")
@click.argument("before")
@click.argument("after")
@click.option("--data", required=True, help="Records with their answers; see 'lmkit train --help'.")
@click.option("--task", help="What to do, where neither is a run or a bundle.")
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first so many records only.")
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="Records answered at once.",
)
@sampling_options
@json_option
def compare(
    before: str,
    after: str,
    data: str,
    task: str | None,
    limit: int | None,
    batch_size: int,
    stop: Sequence[str],
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer the same records with BEFORE and AFTER, and measure both.

    Each is a run, a bundle, or any model: a hub id, a folder or a .gguf file, which then does what
    the other one does, or what --task says. Perplexity and the task's metrics are over the records
    that are answered.
    """
    from lmkit.comparing import compare as compare_models

    options = {name: given for name, given in sampling.items() if given is not None}
    if stop:
        options["stop"] = tuple(stop)
    check_options(options)
    with progress_bar() as progress:
        job = progress.add_task("answering", total=None)
        found = compare_models(
            before,
            after,
            data=data,
            task=task,
            limit=limit,
            batch_size=batch_size,
            on_progress=lambda done, total: progress.update(job, completed=done, total=total),
            **options,
        )
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "task": found.task.name,
        "before": found.before,
        "after": found.after,
        "agreement": found.agreement,
        "same_tokens": found.same_tokens,
        "records": [_line(pair) for pair in found.pairs],
    }


def _line(pair: Pair) -> dict[str, Any]:
    return {
        "where": pair.record.where,
        "record": dict(pair.record),
        "reference": pair.reference,
        "before": pair.before.value,
        "after": pair.after.value,
        "agree": pair.agree,
    }


def _print(found: Comparison) -> None:
    from rich.console import Console

    from lmkit.showing import side_by_side

    rows = [[str(cell) for cell in (p.asked, p.reference, *p.said)] for p in found.pairs]
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(side_by_side(("asked", "reference", "before", "after"), rows))
    figures = [
        (name, _shown(found.before[name]), _shown(found.after[name])) for name in found.before
    ]
    print_table(("figure", "before", "after"), figures)
    click.echo(f"the same answer to {found.agreement:.1%} of {len(found.pairs)} records")
    if not found.same_tokens:
        click.echo("the tokenizers differ, so loss and perplexity are over other tokens", err=True)


def _shown(figure: float) -> str:
    return f"{figure:,.4f}" if isinstance(figure, float) else f"{figure:,}"
