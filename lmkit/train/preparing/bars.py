"""A bar on standard error while rows are prepared, if that takes long and someone is looking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function that is told how many rows of how many are done, or None off a terminal.

    Args:
        name: what to call the data.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    progress = Progress(console=console, transient=True)

    def tell(done: int, total: int) -> None:
        if not progress.tasks:
            progress.start()
            progress.add_task(f"preparing {name}")
        progress.update(progress.tasks[0].id, completed=done, total=total)

    try:
        yield tell
    finally:
        if progress.tasks:
            progress.stop()
