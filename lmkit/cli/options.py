"""Options that several verbs have, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

rename_option = click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="DATA_COLUMN=TASK_COLUMN",
    help="Read the data's column where the task says its own, such as question=prompt; repeatable.",
)


def pairs(given: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Return what options of the form `NAME=CONTENT` say.

    Args:
        given: what was typed, once for each time the option was.
        option: the option, for a message about what is no pair.
        example: what it should look like.
    """
    found: dict[str, str] = {}
    for pair in given:
        name, equals, content = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"{option} {pair}: expected {example}")
        if name.strip() in found:
            raise click.UsageError(f"{option} {pair}: '{name.strip()}' is given twice")
        found[name.strip()] = content
    return found


def renamed_task(task: Any, renames: Sequence[str]) -> Any:
    """Return a task as `--rename` wants it."""
    from lmkit.task import Task

    if not renames:
        return task
    if not isinstance(task, Task):
        raise click.UsageError("--rename is for one task; rename the columns of a mixture's tasks")
    return task.rename(**pairs(renames, "--rename", "DATA_COLUMN=TASK_COLUMN"))
