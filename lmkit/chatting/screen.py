"""Show a conversation: answers on standard output, and everything else beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

# What a terminal would obey instead of showing it, an escape for one: C0 and C1 without tab and newline.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    r"""Return a text with replacement characters for what a terminal would obey.

    >>> harmless("red: \x1b[31m")
    'red: \ufffd[31m'
    """
    return _OBEYED.sub("\N{REPLACEMENT CHARACTER}", text)


class Screen:
    """Where a conversation is shown.

    Args:
        terminal: whether somebody sits before it; a pipe is given the answer's characters as they are.
        colour: whether what is no answer is told apart by colour.
    """

    def __init__(self, *, terminal: bool, colour: bool) -> None:
        self.terminal = terminal
        self._colour = colour

    def piece(self, text: str) -> None:
        """Show a piece of an answer at once."""
        self._answer(text, nl=False)

    def line(self, text: str) -> None:
        """Show an answer, or the rest of one, up to the end of its line."""
        self._answer(text, nl=True)

    def json(self, facts: dict[str, Any]) -> None:
        """Print facts as one line."""
        click.echo(json.dumps(facts, ensure_ascii=False, default=str))

    def note(self, text: str) -> None:
        """Say something about the conversation."""
        self._beside(harmless(text), dim=True)

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self._beside("error: ", nl=False, fg="red", bold=True)
        self._beside(harmless(text))

    def prompt(self, texts: Iterable[tuple[str, bool]], n_tokens: int) -> None:
        """Show what the model was given.

        Args:
            texts: its parts, each with whether it is control tokens, which colour tells apart.
            n_tokens: how long it is.
        """
        for text, is_control in texts:
            self._beside(harmless(text), nl=False, fg="cyan" if is_control else None)
        self._beside("")
        self.note(f"({n_tokens} tokens)")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show names and what there is to say about each."""
        width = max(len(name) for name, _ in rows)
        for name, told in rows:
            self._beside(f"{name:<{width}}  {harmless(told)}")

    def _answer(self, text: str, *, nl: bool) -> None:
        # With color=True click leaves a pipe's text alone; else it would take escapes out of it.
        click.echo(harmless(text) if self.terminal else text, nl=nl, color=True)

    def _beside(self, text: str, *, nl: bool = True, **style: Any) -> None:
        styled = click.style(text, **style) if text and any(style.values()) else text
        click.echo(styled, err=True, nl=nl, color=self._colour)
