"""A formatter, a collator, two decoders, a loss, a metric, a transform and a command of a stranger's."""

from __future__ import annotations

from collections.abc import Iterable

import click

from lmkit import (
    CausalCollator,
    Generation,
    MaskedCollator,
    Seq2SeqCollator,
    Task,
    context,
    hookimpl,
    target,
)
from lmkit_parts.collating import Forgetful
from lmkit_parts.decoding import Lines, Longest
from lmkit_parts.formatting import Facts
from lmkit_parts.measuring import Focal, SharedLines
from lmkit_parts.records import tidy

ANSWERS = Task(
    name="parts-answers",
    description="A question with facts, answered in lines.",
    formatter=Facts(marks=("-", "*")),
    collator=Forgetful(CausalCollator(max_length=96), share=0.1),
    decoder=Lines(most=2),
    generation=Generation(max_new_tokens=24),
    loss=Focal(gamma=1.5),
    metrics=(SharedLines(),),
).map(tidy)

TITLES = Task(
    name="parts-titles",
    description="A title for a text, in lines.",
    formatter=context("{text}") + target("{title}"),
    collator=Forgetful(Seq2SeqCollator(max_source_length=64, max_target_length=32), share=0.1),
    decoder=Lines(),
    generation=Generation(max_new_tokens=12),
    loss=Focal(),
    metrics=(SharedLines(),),
)

GAPS = Task(
    name="parts-gaps",
    description="The longest word that fits a gap.",
    formatter=context("{text}"),
    collator=MaskedCollator(max_length=64),
    decoder=Longest(among=4),
    loss=Focal(),
)


@click.command(epilog="Example: lmkit parts-count notes.txt")
@click.argument("file", type=click.File(encoding="utf-8"))
def parts_count(file: Iterable[str]) -> None:
    """Count the lines of FILE that are not blank."""
    click.echo(sum(1 for line in file if line.strip()))


@hookimpl
def lmkit_tasks() -> Iterable[Task]:
    return [ANSWERS, TITLES, GAPS]


@hookimpl
def lmkit_components() -> Iterable[type]:
    return [Facts, Focal, Forgetful, Lines, Longest, SharedLines]


@hookimpl
def lmkit_commands() -> Iterable[click.Command]:
    return [parts_count]
