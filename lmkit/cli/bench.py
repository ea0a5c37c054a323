"""The verb bench: how fast a bundle is, beside what else could serve its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lmkit.cli.options import pairs
from lmkit.cli.printing import json_option, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from lmkit.benching import Report


def _numbers(
    context: click.Context, option: click.Parameter, given: str | None
) -> tuple[int, ...] | None:
    """Return whole numbers above 0 that have commas between them, each once."""
    if given is None:
        return None
    try:
        found = tuple(dict.fromkeys(int(part) for part in given.split(",")))
    except ValueError:
        raise click.BadParameter(f"{given!r} is no list of whole numbers, as 16,512 is") from None
    if min(found) < 1:
        raise click.BadParameter(f"{min(found)} is not above 0")
    return found


@click.command(
    epilog="Example: lmkit bench bundles/qa --against transformers,genai --model runs/qa --plot qa.svg"
)
@click.argument("bundle")
@click.option(
    "--against",
    multiple=True,
    metavar="PEER,...",
    help="Who else to measure: transformers, optimum, genai, llama.cpp, openvino, ctranslate2; each "
    "as NAME, NAME=MODEL or NAME:PRECISION=MODEL; repeatable.",
)
@click.option(
    "--precision", metavar="NAME,...", help="Of the bundle; all that it has if not given."
)
@click.option("--model", help="What the bundle was exported from, for peers that load that.")
@click.option(
    "--peer-python",
    "peer_pythons",
    multiple=True,
    metavar="NAME=PYTHON",
    help="The interpreter of a peer that lives in another environment; repeatable.",
)
@click.option(
    "--prompt-tokens",
    callback=_numbers,
    metavar="N,...",
    help="Lengths of prompts; 16,512 if not given, as far as they fit.",
)
@click.option(
    "--new-tokens",
    callback=_numbers,
    metavar="N,...",
    help="Lengths of answers; 64 if not given, or fewer in a small context.",
)
@click.option(
    "--batch",
    "batch_sizes",
    callback=_numbers,
    default="1",
    show_default=True,
    metavar="N,...",
    help="Rows at once, such as 1,4,16,64.",
)
@click.option(
    "--beams",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Texts that a beam search follows; 1 is greedy.",
)
@click.option(
    "--repeats",
    is_flag=True,
    help="Prompts whose text comes twice, and the bundle without and with drafts from what it read.",
)
@click.option(
    "--quality",
    is_flag=True,
    help="Also have each side tell how likely it finds a text: its perplexity, of causal models.",
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="How often each does the same, in turn, after one round to warm up (five with --repeats).",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of each side; all cores if not given."
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds that one piece of work may take; a side that takes longer is out.",
)
@click.option("--plot", type=click.Path(), help="Draw it, as .svg, or .png with the extra 'train'.")
@json_option
def bench(
    bundle: str,
    against: Sequence[str],
    precision: str | None,
    model: str | None,
    peer_pythons: Sequence[str],
    prompt_tokens: Sequence[int] | None,
    new_tokens: Sequence[int] | None,
    batch_sizes: Sequence[int],
    beams: int,
    repeats: bool,
    quality: bool,
    rounds: int,
    threads: int | None,
    timeout: float,
    plot: str | None,
    as_json: bool,
) -> None:
    """Measure BUNDLE's speed and memory, and that of peers beside it.

    Every side runs in a process of its own and does the same work in turn: the same ids to read, the
    same number of tokens to write, greedily, the text's end not minded. Shown are medians with the
    least and most, and how much of the machine's memory-read limit the bundle reaches.

    A peer that is not installed, has no model, or fails is named with the reason, and the rest goes
    on.
    """
    from lmkit.benching import bench as measure
    from lmkit.benching.plots import check_plot, save_plot

    pythons = pairs(peer_pythons, "--peer-python", "NAME=PYTHON")
    if plot:
        check_plot(plot)
    with progress_bar() as progress:
        job = progress.add_task("starting", total=None)
        report = measure(
            bundle,
            against=_split(against),
            precisions=_split([precision]) if precision else None,
            model=model,
            peer_pythons=pythons,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            batch_sizes=batch_sizes,
            beams=beams,
            repeats=repeats,
            quality=quality,
            rounds=rounds,
            threads=threads,
            timeout_s=timeout,
            on_progress=lambda what, done, total: progress.update(
                job, description=what, completed=done, total=total
            ),
        )
    if plot:
        save_plot(report, plot)
    if as_json:
        print_json(report.document())
    else:
        _print(report)


def _split(given: Sequence[str]) -> list[str]:
    return [part.strip() for some in given for part in some.split(",") if part.strip()]


def _print(report: Report) -> None:
    from lmkit.benching.tables import notes, side_rows, speed_rows

    print_table(*speed_rows(report))
    click.echo()
    print_table(*side_rows(report))
    click.echo()
    for line in notes(report):
        click.echo(line)
