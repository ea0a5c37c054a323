"""The verb chat: a conversation with a run or a bundle, at a terminal or through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.generate import (
    check_options,
    open_source,
    print_value,
    sampling_options,
)
from lmkit.cli.options import pairs, precision_option, threads_option

if TYPE_CHECKING:
    from lmkit.answering import Answerer
    from lmkit.chatting.screen import Screen
    from lmkit.chatting.talk import Reply


@click.command(epilog="Example: lmkit chat bundles/chat --system 'Answer in Korean.' --stats")
@click.argument("run_or_bundle")
@click.option("--task", help="Which of a mixture's tasks to do; or the task, for any other model.")
@click.option(
    "--system",
    metavar="TEXT",
    help="The system message, for a task of messages; it takes the place of a loaded one.",
)
@click.option(
    "--set",
    "columns",
    multiple=True,
    metavar="COLUMN=TEXT",
    help="For a task of several columns: what all but one hold; repeatable. What is typed fills the "
    "one that is left.",
)
@click.option("--load", metavar="FILE", help="Go on with a conversation that /save wrote.")
@click.option(
    "--trim",
    is_flag=True,
    help="Leave out the oldest turns when the context is full; else that is told, and nothing said.",
)
@click.option("--stats", is_flag=True, help="Tell how many tokens each answer took, and how fast.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False),
    help="A file that keeps what is typed, to be found again in later chats; without, nothing is kept.",
)
@threads_option
@precision_option
@click.option(
    "--verify/--no-verify",
    default=False,
    help="Check the bundle's checksums and golden answers first, or its sizes and golden prompts' ids "
    "only, which is the default.",
)
@sampling_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print each answer as one line of JSON when it is whole.",
)
def chat(
    run_or_bundle: str,
    task: str | None,
    system: str | None,
    columns: Sequence[str],
    load: str | None,
    trim: bool,
    stats: bool,
    history: str | None,
    threads: int | None,
    precision: str | None,
    verify: bool,
    stop: Sequence[str],
    as_json: bool,
    **sampling: Any,
) -> None:
    r"""Talk with RUN_OR_BUNDLE: through torch for a run, without it for a bundle.

    With --task it may be any model: a hub id, a folder or a .gguf file. A task that is no chat answers
    each message for itself.

    A line is a message, and one that ends in \ goes on in the next. /help lists the commands: to
    retry, edit and take back, to change how answers are written, to save and load. Ctrl-C stops an
    answer and keeps what came; Ctrl-D ends.

    In a pipe, answers alone are on standard output: printf 'Hello\nAnd in Korean?\n' | lmkit chat B
    """
    from lmkit.chatting.conversation import Conversation
    from lmkit.chatting.dialogue import Dialogue, own_file
    from lmkit.chatting.lines import PipeLines, TerminalLines
    from lmkit.chatting.screen import Screen
    from lmkit.chatting.talk import Talk

    options = {name: given for name, given in sampling.items() if given is not None}
    if stop:
        options["stop"] = tuple(stop)
    check_options(options)
    fixed = pairs(columns, "--set", "COLUMN=TEXT")
    typed = sys.stdin.isatty()
    model = open_source(run_or_bundle, task, threads=threads, precision=precision, verify=verify)
    _check_columns(model, fixed)
    conversation = Conversation.about(model.task, fixed, system)
    model.task.generation.override(**options)
    if load is not None:
        conversation.load(load)
        if system is not None:  # what is typed goes before what is in the file
            conversation.system = system
    screen = Screen(
        terminal=sys.stdout.isatty() and not as_json,
        colour=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
    )
    dialogue = Dialogue(
        talk=Talk(model=model, conversation=conversation, options=options, trims=trim),
        lines=TerminalLines(Path(history) if history else None)
        if typed
        else PipeLines(sys.stdin.buffer),
        screen=screen,
        show=_shower(model, screen, as_json=as_json, stats=stats),
        pieces=not as_json,
        stats=stats and not as_json,
        stays=typed,
        ours=None if load is None else own_file(Path(load)),
    )
    if typed:
        screen.note(f"{_name(model, run_or_bundle)} · /help lists the commands, Ctrl-D ends")
    dialogue.run()


def _check_columns(model: Answerer, fixed: dict[str, str]) -> None:
    """Refuse a column that nothing reads."""
    from lmkit.errors import UnknownName

    known = model.task.prompt_columns
    for name in fixed:
        if name not in known:
            raise UnknownName("column", name, known)


def _shower(
    model: Answerer, screen: Screen, *, as_json: bool, stats: bool
) -> Callable[[Reply], None]:
    """Return what prints an answer that is whole."""
    from lmkit.answering.lines import line_of

    def show(reply: Reply) -> None:
        if as_json:
            timing = {"timing": reply.timing()} if stats else {}
            screen.json({**line_of(reply.answer), **timing})
        else:
            print_value(model.task, reply.answer)

    return show


def _name(model: Answerer, source: str) -> str:
    """Return what a model is called: the name it has on a hub or in its bundle, and its task."""
    manifest = getattr(model, "manifest", None)
    known = manifest.model.get("name") if manifest is not None else None
    name = Path(str(known or source)).name
    return f"{name} ({model.task.name})"
