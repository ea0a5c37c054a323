"""Records to check a bundle with: the user's own, or ones with Korean, emoji and long text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmkit.answering.filling import with_mask
from lmkit.collating import Stream
from lmkit.family import Family
from lmkit.records import Row
from lmkit.renaming import messages_column
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
    task: Task, rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Return a few records with the task's prompt columns.

    Args:
        task: the task.
        rows: the user's records; a few of them are used, from all over the data. Where they are
            parts of one text, the prompts are pieces of it.
        tokenizer: what the built-in texts must be readable for; a masked task's records get its
            mask token.
    Returns:
        The picks, and built-in ones if there are too few.
    """
    picked = list(rows[:: max(1, len(rows) // N_PROBES)][:N_PROBES])
    if isinstance(task.collator, Stream):
        records = [_record(task, piece) for piece in _pieces(task, picked)]
    else:
        records = [_prompt_columns(task, row) for row in picked]
    texts = TEXTS[: N_PROBES - len(records)]
    records += [_record(task, _readable(text, tokenizer)) for text in texts]
    if task.family is Family.MASKED:
        return [with_mask(task, record, tokenizer) for record in records]
    return records


def _pieces(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return pieces of unlike length from all over the rows' text."""
    text = "".join(segment.text for row in rows for segment in task.formatter.segments(row))
    starts = range(0, len(text), max(1, -(-len(text) // N_PROBES)))
    return [text[start : start + 8 * count] for count, start in enumerate(starts, start=1)]


def _readable(text: str, tokenizer: Tokenizer) -> str:
    """Return a text without the characters that a tokenizer refuses."""
    refused = tokenizer.unknown_in(text)
    return "".join(char for char in text if char not in refused)


def _prompt_columns(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row its prompt is made from, with its place for an error to name."""
    columns = {column: row[column] for column in task.prompt_columns if column in row}
    return Row(columns, row.where) if isinstance(row, Row) else columns


def _record(task: Task, text: str) -> dict[str, Any]:
    messages = messages_column(task.formatter)
    if messages is not None:
        return {messages: [{"role": "user", "content": text}]}
    return dict.fromkeys(task.prompt_columns, text)
