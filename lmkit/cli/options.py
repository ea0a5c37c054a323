"""Options that several verbs have, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

rename_option = click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="DATA_COLUMN=TASK_COLUMN",
    help="Read the data's column where the task says its own, such as question=prompt; repeatable.",
)

bad_row_option = click.option(
    "--on-bad-row",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Gather up to ten records that cannot be read or do not fit, and stop; or leave them out, "
    "count them and say which they were.",
)

precision_option = click.option(
    "--precision",
    metavar="NAME",
    help="Which of a bundle's precisions to use, such as int4; its default one if not given.",
)

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads to use; all cores if not given."
)

LOCAL, RAY = ENGINES = ("local", "ray")


def engine_options(*, workers: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds the options that say on which machines the work is done.

    Args:
        workers: whether how many processes there are is said with `--workers`.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--address",
            metavar="HOST:PORT",
            help="With --engine ray: a cluster that is running, or 'auto' for this machine's; "
            "$RAY_ADDRESS if not given, and without either one is started here and stopped at the end.",
        )(command)
        if workers:
            command = click.option(
                "--workers",
                type=click.IntRange(min=1),
                help="With --engine ray: how many processes have the model open, each with --threads "
                "cores; as many as there is room for if not given.",
            )(command)
        return click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default=LOCAL,
            show_default=True,
            help="Work in this process, or on a ray cluster's machines.",
        )(command)

    return add


def check_engine(engine: str, **only_ray: object) -> None:
    """Refuse options that mean nothing to this process's own engine."""
    for name, given in only_ray.items():
        if given is not None and engine != RAY:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --engine ray")


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how rows are prepared."""
    command = click.option(
        "--num-proc",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="How many processes prepare the rows of a file; they come out the same.",
    )(command)
    command = click.option(
        "--explain-cache",
        is_flag=True,
        help="Say whether prepared rows were in the cache, and if not what has changed.",
    )(command)
    return click.option(
        "--no-cache",
        is_flag=True,
        help="Prepare the rows anew, and do not keep them; else they are kept in $LMKIT_CACHE, or "
        "~/.cache/lmkit/prepared.",
    )(command)


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


def row_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how long rows are."""
    command = click.option(
        "--pad-to-max-length",
        is_flag=True,
        help="Pad every batch to the task's full length, so that all have one shape.",
    )(command)
    return click.option(
        "--max-length",
        type=click.IntRange(min=2),
        help="The most tokens in a row; the task's own if not given.",
    )(command)


pack_option = click.option(
    "--pack",
    is_flag=True,
    help="Fill each sequence with several rows, none of which sees another, so that hardly a place is "
    "padding; a batch then counts sequences.",
)


def with_row_options(
    what: Any, max_length: int | None, *, pad_to_max_length: bool, pack: bool = False
) -> Any:
    """Return a task, or a mixture, whose collator is as the options say."""
    import attrs

    from lmkit.mixing import Mixture

    changes: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
    if pad_to_max_length:
        changes["pad_to_max_length"] = True
    if pack:
        changes["pack"] = True
    if not changes:
        return what
    if isinstance(what, Mixture):
        one = [
            with_row_options(t, max_length, pad_to_max_length=pad_to_max_length, pack=pack)
            for t in what.tasks
        ]
        return what.with_tasks(one)
    known = [field.name for field in attrs.fields(type(what.collator))]
    for name in changes:
        if name not in known:
            raise click.UsageError(
                f"--{name.replace('_', '-')}: the task '{what.name}' makes its rows with a "
                f"{type(what.collator).__name__}, which has {', '.join(known)}"
            )
    return what.evolve(collator=attrs.evolve(what.collator, **changes))
