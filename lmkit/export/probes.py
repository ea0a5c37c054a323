"""Records to check a bundle with: the user's own, or ones with Korean, emoji and long text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkit.chat import Chat
from lmkit.family import Family
from lmkit.filling import with_mask
from lmkit.records import Row
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

N_PROBES = 4

# Unlike in script and length, so that a ragged batch of them is ragged indeed.
TEXTS = (
    "안녕하세요? 오늘 날씨가 어때요?",
    "What is the capital of France?",
    "👩‍👩‍👧‍👦 emoji와 한글이 섞인 文章, and a bit of English: 12,345.67 원!",
    "Write one sentence about the sea. " * 6,
)


def probe_records(
    task: Task, rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer | None = None
) -> list[dict[str, Any]]:
    """Return a few records with the task's prompt columns.

    Args:
        task: the task.
        rows: the user's records; a few of them are used, from all over the data.
        tokenizer: the model's, whose mask token a masked task's records get.
    Returns:
        The picks, and built-in ones if there are too few.
    """
    step = max(1, len(rows) // N_PROBES)
    picked = [_prompt_columns(task, row) for row in rows[::step][:N_PROBES]]
    picked += [_record(task, text) for text in TEXTS[: N_PROBES - len(picked)]]
    if task.family is Family.MASKED and tokenizer is not None:
        return [with_mask(task, record, tokenizer) for record in picked]
    return picked


def _prompt_columns(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row its prompt is made from, with its place for an error to name."""
    columns = {column: row[column] for column in task.prompt_columns if column in row}
    return Row(columns, row.where) if isinstance(row, Row) else columns


def _record(task: Task, text: str) -> dict[str, Any]:
    formatter = task.formatter
    if isinstance(formatter, Chat) and not formatter.turns:
        return {formatter.messages: [{"role": "user", "content": text}]}
    return dict.fromkeys(task.prompt_columns, text)
