"""Tell a command from something said, and what each is for."""

from __future__ import annotations

import json
import shlex
from typing import Any

import attrs

from lmkit.errors import LmkitError, UnknownName

# command -> (what follows it, what it does)
COMMANDS = {
    "edit": ("[TEXT]", "Say the last message otherwise, and have it answered anew."),
    "retry": ("", "Have the last message answered anew."),
    "undo": ("", "Take back the last message and its answer."),
    "clear": ("", "Forget all messages; the system message stays."),
    "system": ("[TEXT | -]", "Show the system message, set it, or take it away."),
    "set": ("[NAME=VALUE ...]", "Show how answers are written, or change it; NAME= undoes that."),
    "trim": ("", "From now on leave out the oldest turns when the context is full."),
    "prompt": ("", "Show what the model was given, control tokens marked."),
    "paste": ("", "Say the lines that follow, up to /end."),
    "save": ("FILE", "Write the conversation as a record that 'lmkit train' reads."),
    "load": ("FILE[:N]", "Go on with a conversation from a file, its Nth record."),
    "help": ("", "Show this."),
    "exit": ("", "End; so does Ctrl-D."),
}
ALIASES = {"quit": "exit", "?": "help"}


@attrs.frozen
class Command:
    """A command, and what follows it on its line."""

    name: str
    rest: str = ""


def parse(text: str) -> Command | str:
    r"""Return the command that a message is, or what it says.

    A message that is to begin with a slash begins with two.

    Raises:
        UnknownName: there is no such command.

    >>> parse("/set top_k=5"), parse("//etc/hosts?"), parse("hello")
    (Command(name='set', rest='top_k=5'), '/etc/hosts?', 'hello')
    """
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    word, _, rest = text[1:].partition(" ")
    word, _, more = word.partition("\n")
    name = ALIASES.get(word, word)
    if name not in COMMANDS:
        raise UnknownName(
            "command",
            f"/{word}",
            [f"/{known}" for known in COMMANDS],
            hint="to say it, begin with //",
        )
    return Command(name, "\n".join(part for part in (more, rest) if part).strip())


def settings(rest: str) -> dict[str, Any]:
    """Return what follows `/set`: fields of `Generation`, or None for one that is to be undone.

    Raises:
        LmkitError: it is no `NAME=VALUE`.

    >>> settings("temperature=0.8 stop='###' seed=")
    {'temperature': 0.8, 'stop': '###', 'seed': None}
    """
    found: dict[str, Any] = {}
    try:
        words = shlex.split(rest)
    except ValueError as error:  # a quotation mark that nothing closes
        raise LmkitError(f"/set {rest}: {str(error).lower()}; expected NAME=VALUE") from error
    for word in words:
        name, equals, given = word.partition("=")
        if not equals or not name:
            raise LmkitError(f"/set {word}: expected NAME=VALUE, such as temperature=0.8")
        found[name.replace("-", "_")] = None if not given else _meaning(name, given)
    return found


def _meaning(name: str, given: str) -> Any:
    if name == "stop":
        return given
    try:
        return json.loads(given)
    except ValueError:
        return given
