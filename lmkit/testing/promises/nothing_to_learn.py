"""Something is learned of every record, and nothing of a blank answer or of padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmkit.collating import Stream
from lmkit.encoding import IGNORE, Encoded, encode
from lmkit.errors import RecordError
from lmkit.family import Family
from lmkit.records import Row
from lmkit.renaming import messages_column
from lmkit.task import Task
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.testing.toys import TOY, toy_tokenizer
from lmkit.tokenizing import Tokenizer


def check(case: Case) -> None:
    """Check what is learned of each record, and of the first with a blank answer.

    Raises:
        Broken: nothing is learned of a record, a label is out of place, words that no record has are
            learned in place of a blank answer, or padding is learned.
    """
    tokenizer = case.aligned(case.tokenizers.get(TOY, next(iter(case.tokenizers.values()))))
    rows = []
    for record in case.each():
        row = case.row(record, tokenizer)
        if row is None or not row.n_learned:
            raise Broken(
                f"nothing is learned from {dict(record)}",
                "check that its answer is not blank and stands in a target(...), a Segment with "
                "learn=True; leave out records without one with task.where(...)",
            )
        _check_places(row)
        if not _words(row, tokenizer):
            raise Broken(
                "of this record only the end of an answer is learned",
                "check that the target names the answer's column, and that it is not blank",
            )
        rows.append(row)
    _check_padding(case.task, rows, tokenizer)
    if not isinstance(case.task.collator, Stream):
        for record in case.records[:1]:
            _check_blank(case, record)


def _check_places(row: Encoded) -> None:
    if row.family is Family.SEQ2SEQ:
        return
    learned = row.labels != IGNORE
    if not np.array_equal(row.labels[learned], row.input_ids[learned]):
        raise Broken(
            "a label is not the token of its own place",
            "leave labels where their tokens are: the model's head shifts them itself",
        )


def _check_blank(case: Case, record: Row) -> None:
    blank = without_answer(case.task, record)
    if blank is None:
        return
    toy = case.aligned(toy_tokenizer())
    case.current = blank
    try:
        [*_, row] = encode(case.task, [blank], toy)
    except RecordError:
        case.current = None
        return  # told by its place, and counted where bad rows are left out
    words, whole = (_words(one, toy) for one in (row, encode(case.task, [record], toy)[-1]))
    if not _is_part(words, whole):
        raise Broken(
            f"where the answer is blank it learns {words!r}, which no record says",
            "write nothing in place of a missing answer: a model would learn to say it",
        )
    case.current = None


def without_answer(task: Task, record: Row) -> Row | None:
    """Return a record whose answer is blank, or None where it is not known what is the answer."""
    messages = messages_column(task.formatter)
    if messages is not None:
        said = [dict(message) for message in record[messages]]
        if said and said[-1].get("role") == "assistant":
            said[-1]["content"] = ""
            return Row({**record, messages: said}, f"{record.where} with a blank answer")
        return None
    masked = task.family is Family.MASKED
    names = [c for c in task.columns if c in record and (masked or c not in task.prompt_columns)]
    texts = [name for name in names if isinstance(record[name], str)]
    if not texts or len(texts) < len(names):
        return None
    blank = {**record, **dict.fromkeys(texts, "")}
    return Row(blank, f"{record.where} with a blank {', '.join(texts)}")


def _words(row: Encoded, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(row.labels[row.labels != IGNORE].tolist()).strip()


def _is_part(some: str, whole: str) -> bool:
    """Say whether a text is another one with something left out: a template around an answer."""
    rest = iter(whole)
    return all(character in rest for character in some)


def _check_padding(task: Task, rows: list[Encoded], tokenizer: Tokenizer) -> None:
    """Check that a batch learns no more of its rows than they do themselves."""
    if isinstance(task.collator, Stream):
        return
    pad_id = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
    chosen = sorted(rows, key=len)
    pair = task.collator.measured([chosen[0], chosen[-1]], tokenizer)
    batch: dict[str, Any] = task.collator.collate(pair, pad_id or 0)
    learned = [int((row.labels != IGNORE).sum()) for row in pair]
    found = np.sum(batch["labels"] != IGNORE, axis=1).tolist()
    if found != learned:
        raise Broken(
            f"two rows learn {learned[0]} and {learned[1]} tokens, and in a batch of both "
            f"{found[0]} and {found[1]}",
            f"fill the labels of empty cells with {IGNORE}, by their place, never by the pad id",
        )
