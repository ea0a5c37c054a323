"""Records to check a bundle with: the user's own, or ones with Korean, emoji and long text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkit.records import Row
from lmkit.renaming import messages_column
from lmkit.task import Task

N_PROBES = 4

# Unlike in script and length, so that a ragged batch of them is ragged indeed.
TEXTS = (
    "안녕하세요? 오늘 날씨가 어때요?",
    "What is the capital of France?",
    "👩‍👩‍👧‍👦 emoji와 한글이 섞인 文章, and a bit of English: 12,345.67 원!",
    "Write one sentence about the sea. " * 6,
)


def probe_records(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a few records with the task's prompt columns.

    Args:
        task: the task.
        rows: the user's records; a few of them are used, from all over the data.
    Returns:
        The picks, and built-in ones if there are too few.
    """
    step = max(1, len(rows) // N_PROBES)
    picked = [_prompt_columns(task, row) for row in rows[::step][:N_PROBES]]
    return picked + [_record(task, text) for text in TEXTS[: N_PROBES - len(picked)]]


def _prompt_columns(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row its prompt is made from, with its place for an error to name."""
    columns = {column: row[column] for column in task.prompt_columns if column in row}
    return Row(columns, row.where) if isinstance(row, Row) else columns


def _record(task: Task, text: str) -> dict[str, Any]:
    messages = messages_column(task.formatter)
    if messages is not None:
        return {messages: [{"role": "user", "content": text}]}
    return dict.fromkeys(task.prompt_columns, text)
