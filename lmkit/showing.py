"""Show answers side by side, wide Hangul in line."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmkit.chat.messages import said
from lmkit.formatting import Record
from lmkit.renaming import messages_column
from lmkit.task import Task

if TYPE_CHECKING:
    from rich.table import Table

MOST_CELLS = 160  # of a terminal; a longer text is shortened in the middle


def asked(task: Task, record: Record) -> str:
    """Return what of a record its prompt is made from: of a conversation, what was said last.

    >>> from lmkit import get_task
    >>> asked(get_task("qa"), {"prompt": "1+1?", "completion": "2"})
    '1+1?'
    """
    messages = messages_column(task.formatter)
    if messages is not None:
        turns = [said(turn) for turn in record[messages] if turn["role"] != "assistant"]
        return turns[-1] if turns else ""
    texts = [str(record.get(column) or "") for column in task.prompt_columns]
    return " · ".join(text.strip() for text in texts if text.strip())


def side_by_side(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return texts as a table with a line between rows; all columns share the width."""
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    table = Table(box=HORIZONTALS, pad_edge=False, header_style="bold", show_lines=True)
    for title in titles:
        table.add_column(title, overflow="fold", ratio=1)
    for row in rows:
        table.add_row(*(Text(shortened(cell)) for cell in row))
    return table


def shortened(text: str, most: int = MOST_CELLS) -> str:
    r"""Return a text on one line and no wider than `most` cells, its middle left out if need be.

    What a terminal would obey, an escape for one, is shown as a replacement character.

    >>> shortened("날씨가\n  아주 좋은 날", most=12)
    '날씨 … 날'
    """
    from rich.cells import cell_len, chop_cells

    text = " ".join(text.split())
    obeyed = ("Cc", "Cs")  # control characters, and halves of a pair that no terminal takes
    text = "".join("\ufffd" if unicodedata.category(mark) in obeyed else mark for mark in text)
    if cell_len(text) <= most:
        return text
    half = (most - 3) // 2
    head = chop_cells(text, half)[0]
    tail = chop_cells(text[::-1], half)[0][::-1]
    return f"{head.rstrip()} … {tail.lstrip()}"


def print_side_by_side(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print texts side by side on standard error, as wide as the terminal, or 120 cells off it."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=120)
    console.print(side_by_side(titles, rows))
