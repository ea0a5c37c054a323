"""A task reads the columns that it names, no others, and the prompt none of the answer's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lmkit.errors import RecordError
from lmkit.formatting import Segment
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.testing.toys import toy_tokenizer


def check(case: Case) -> None:
    """Check what the formatter reads of each record.

    Raises:
        Broken: a record lacks a column, the formatter reads one that it does not name, the prompt
            reads the answer, or a record is changed.
    """
    formatter, dialect = case.task.formatter, toy_tokenizer().dialect
    columns, asked = formatter.columns, formatter.prompt_columns
    foreign = [name for name in asked if name not in columns]
    if foreign:
        raise Broken(
            f"prompt_columns names {', '.join(foreign)}, which columns does not",
            "a training record has all that its prompt has: name the column in both",
        )
    for record in case.each():
        before = copy.deepcopy(dict(record))
        try:
            text = formatter.segments(record, dialect)
            prompt = formatter.prompt(record, dialect)
        except RecordError as error:
            raise Broken(
                f"the record does not fit the task: {error.problem}",
                "give records with the task's columns, or map them with task.rename(yours='its')",
                columns=", ".join(columns),
            ) from error
        if dict(record) != before:
            raise Broken("the formatter changes the record", "let it work on a copy")
        if formatter.segments(record, dialect) != text:
            raise Broken("the same record becomes another text the second time", _SAME)
        _check_same(formatter.segments, text, record, columns, dialect, "columns")
        _check_same(formatter.prompt, prompt, record, asked, dialect, "prompt_columns")


_SAME = "let the text depend on the record alone; what is drawn at random belongs into the collator"


def _check_same(
    render: Any,
    expected: list[Segment],
    record: Mapping[str, Any],
    names: tuple[str, ...],
    dialect: Any,
    of: str,
) -> None:
    """Check that nothing changes where a record has the columns that are named and no others."""
    hint = (
        "name in `columns` every column that it reads"
        if of == "columns"
        else "at inference there is no answer: read only what is asked, and name it in `prompt_columns`"
    )
    rest = [name for name in record if name not in names]
    if not rest:
        return
    try:
        found = render({name: record[name] for name in names if name in record}, dialect)
    except Exception as error:
        raise Broken(
            f"without {', '.join(rest)}, which its {of} do not name, it fails: "
            f"{type(error).__name__}: {error}",
            hint,
        ) from error
    if found != expected:
        raise Broken(f"it reads {', '.join(rest)}, which its {of} do not name", hint)
