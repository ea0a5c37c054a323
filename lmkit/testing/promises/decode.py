"""The decoder inverts the formatter: a perfect answer is read as what the record says."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from lmkit.answering.filling import with_mask
from lmkit.answering.streaming import IncrementalText
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.decoding import Chooser, Filler
from lmkit.encoding import IGNORE, encode, prompt_ids
from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.records import Row
from lmkit.renaming import messages_column
from lmkit.task import Task
from lmkit.testing.broken import Broken, DoesNotApply
from lmkit.testing.case import Case
from lmkit.tokenizing import Tokenizer


def check(case: Case) -> None:
    """Check each record's own answer, read as if a model had written it.

    Raises:
        Broken: it is read as something else, or not as what the record says.
        DoesNotApply: records are parts of one text.
    """
    task = case.task
    if isinstance(task.collator, Stream):
        raise DoesNotApply("records are parts of one text, and none is an answer")
    for name, tokenizer, record in case.with_each():
        if task.family is Family.MASKED:
            _check_fill(task, record, tokenizer)
        else:
            _check_answer(case, record, tokenizer, name)


def _check_answer(case: Case, record: Row, tokenizer: Tokenizer, name: str) -> None:
    task = case.task
    expected = task.reference(record, tokenizer.dialect)
    if task.reference(record, tokenizer.dialect) != expected:
        raise Broken(
            "the decoder reads one answer in two ways",
            "let it depend on the text alone; and give its values an ==, as attrs does",
            read=f"{expected!r} and {task.reference(record, tokenizer.dialect)!r}",
        )
    said = answer_of(task, record)
    if isinstance(expected, str) and said is not None and _plain(expected) != _plain(said):
        raise Broken(
            f"the decoder reads {expected!r} where the record says {said!r}",
            "let the decoder take off what the formatter's target puts around the answer",
        )
    if not isinstance(task.decoder, Chooser):
        _check_written(case, record, tokenizer, name, expected)


def _check_written(case: Case, record: Row, tokenizer: Tokenizer, name: str, expected: Any) -> None:
    """Check the ids that a perfect model would write, with all that ends an answer."""
    task = case.task
    row = encode(task, [record], tokenizer)[-1]
    if row.n_cut:
        return
    asked = (
        0 if task.family is Family.SEQ2SEQ else len(prompt_ids(cutting(task), record, tokenizer))
    )
    labels = row.labels[asked:]
    ids = [token for token in labels[labels != IGNORE].tolist() if not tokenizer.is_control(token)]
    text = IncrementalText(tokenizer.decode, stop=task.stop_strings(task.generation))
    words = "".join(text.push(token) for token in ids) + text.finish()
    segments = task.formatter.segments(record, tokenizer.dialect)
    meant = "".join(segment.text for segment in segments)
    whole = tokenizer.decode(ids)
    if text.stopped:
        raise Broken(
            f"the answer holds a text that stops it: only {words!r} of {whole!r} would be read",
            f"choose other stop strings than {', '.join(map(repr, task.stop_strings(task.generation)))}",
            tokenizer=name,
        )
    if "".join(whole.split()) not in "".join(meant.split()):
        return  # a tokenizer that does not give this text back; that is not the task's fault
    if any(tokenizer.is_unknown(token) for token in ids) or " ".join(whole.split()) not in " ".join(
        meant.split()
    ):
        return
    found = task.decoder.read(words)
    if found != expected and not _alike(found, expected):
        raise Broken(
            f"a model that writes the answer is read as {found!r}, and the record's as {expected!r}",
            "let the decoder's `read` depend on the words alone",
            tokenizer=name,
        )


def _alike(found: Any, expected: Any) -> bool:
    return (
        isinstance(found, str) and isinstance(expected, str) and _plain(found) == _plain(expected)
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def answer_of(task: Task, record: Row) -> str | None:
    """Return what the record itself says is the answer, where one column or message does."""
    messages = messages_column(task.formatter)
    if messages is not None:
        last = record[messages][-1] if record[messages] else {}
        content = last.get("content") if last.get("role") == "assistant" else None
        return content if isinstance(content, str) else None
    try:
        said = record.get(task.answer_column)
    except TaskError:
        return None
    return said if isinstance(said, str) else None


def _check_fill(task: Task, record: Row, tokenizer: Tokenizer) -> None:
    """Check that what is read of a mask is what the logits say, and nothing else."""
    decoder = task.decoder
    if not isinstance(decoder, Filler):
        raise DoesNotApply("its decoder fills no masks")
    ids = prompt_ids(task, with_mask(task, record, tokenizer), tokenizer)
    places = np.flatnonzero(ids == tokenizer.mask_id)
    known = [
        token
        for token in dict.fromkeys(ids.tolist())
        if not tokenizer.is_control(token) and tokenizer.decode([token]).strip()
    ][:2]
    if len(known) < 2 or not len(places):
        return
    read = []
    for token in (*known, known[0]):
        logits = np.zeros((len(ids), tokenizer.vocab_size), dtype=np.float32)
        logits[places, token] = 10.0
        read.append(decoder.fill(ids, logits, tokenizer))
    if read[0] != read[2]:
        raise Broken("the decoder reads the same logits in two ways", "let it keep no state")
    if read[0] == read[1]:
        words = [tokenizer.decode([token]) for token in known]
        raise Broken(
            f"the decoder reads a mask that is {words[0]!r} as it reads one that is {words[1]!r}: "
            f"{read[0]!r}",
            "read the logits of the places that hold the tokenizer's mask_id",
        )
