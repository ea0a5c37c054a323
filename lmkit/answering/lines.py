"""A file of answers: the line that each is, and how many of them are already there.

Every engine that answers a file writes these lines, so one continues what another has begun.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.answering import Answerer
from lmkit.decoding import Answer
from lmkit.errors import LmkitError, PromptTooLong, RecordError
from lmkit.records import Row


def line_of(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON has it: its value, text, reason to end and tokens; a chain's steps too."""
    chosen = {} if answer.probabilities is None else {"probabilities": dict(answer.probabilities)}
    line = {
        "value": answer.value,
        **chosen,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {**attrs.asdict(answer.usage), "total_tokens": answer.usage.total_tokens},
    }
    if hasattr(answer, "steps"):
        line["steps"] = [line_of(step) for step in answer.steps]
    return line


def answered(row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """Return a record with its answer, which is what a line of the file holds."""
    return {**row, "answer": line_of(answer)}


def dump(line: Mapping[str, Any]) -> str:
    """Return a line's text, without the end of the line."""
    return json.dumps(line, ensure_ascii=False, default=str)


def checked(model: Answerer, row: Row) -> Row | RecordError:
    """Return a row, or why it cannot be answered."""
    try:
        model.prompt(row)
    except RecordError as error:
        return error
    except PromptTooLong as error:
        return RecordError(row.where, error.problem)
    return row


def answers_in(path: Path, rows: Iterable[Row]) -> int:
    """Return how many rows a file has the answers to; a line that a kill cut off is taken out.

    Args:
        path: the file; it need not be there.
        rows: all records, from the first; no more are read than there are answers.
    Raises:
        RecordError: the file holds something else, which is left as it is.
    """
    if not path.is_file():  # not there, or a pipe or a device, which cannot be continued
        return 0
    rows, done, size = iter(rows), 0, 0
    try:
        with open(path, "rb") as file:
            for line in file:
                row = next(rows, None)
                is_whole = line.endswith(b"\n")
                fits = is_answer if is_whole else _begins_answer
                if row is None or not fits(line, row):
                    raise RecordError(
                        f"{path}:{done + 1}",
                        "is not the answer to this input's record, so the file is another one's and "
                        "is left as it is; choose another --output",
                    )
                if is_whole:
                    done, size = done + 1, size + len(line)
        if size < path.stat().st_size:
            os.truncate(path, size)
    except OSError as error:
        raise RecordError(str(path), f"cannot be read: {error.strerror}") from error
    return done


def is_answer(line: bytes, row: Row) -> bool:
    """Say whether a line is a row's, with some answer to it."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    wanted = json.loads(dump({**row, "answer": None}))
    return isinstance(found, dict) and "answer" in found and {**found, "answer": None} == wanted


def _begins_answer(line: bytes, row: Row) -> bool:
    """Say whether half a line is the beginning of a row's answer."""
    head = dump({**row, "answer": None}).partition('"answer": null')[0].encode()
    length = min(len(head), len(line))
    return line[:length] == head[:length]


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Callable[[Sequence[str]], None]]:
    """Give a function that appends lines to a file, all of them on the disk when it returns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:

            def write(lines: Sequence[str]) -> None:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()

            yield write
    except LmkitError:
        raise
    except OSError as error:
        raise LmkitError(f"'{path}' cannot be written: {error.strerror or error}") from error
