"""How verbs print: facts on standard output, as tables or as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
)


def progress_bar() -> Progress:
    """Return a bar on standard error that vanishes when done, and is not there off a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def print_json(data: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under titles, as wide as the terminal allows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(table)


def print_fills(fills: Sequence[Any]) -> None:
    """Print the fills of a text with one mask, or with several, as a table."""
    if isinstance(fills[0], list):
        rows = [
            (f"{place}", *_fill_cells(fill))
            for place, some in enumerate(fills, start=1)
            for fill in some
        ]
        print_table(("mask", "score", "token", "sequence"), rows)
    else:
        print_table(("score", "token", "sequence"), [_fill_cells(fill) for fill in fills])


def _fill_cells(fill: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{fill['score']:.4f}", fill["token_str"], fill["sequence"]


def print_figures(figures: dict[str, float]) -> None:
    """Print named numbers, one a line."""
    width = max(map(len, figures))
    for name, figure in figures.items():
        shown = f"{figure:,.4f}" if isinstance(figure, float) else f"{figure:,}"
        click.echo(f"{name:<{width}}  {shown}")
