"""A formatter: a list of facts is written line by line, which no template can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lmkit.errors import RecordError
from lmkit.formatting import PLAIN, Segment
from lmkit.tokenizing import Dialect


@attrs.frozen(kw_only=True)
class Facts:
    """Facts, marked in turn, then the question, then the answer, which is learned."""

    marks: tuple[str, ...] = ("-",)
    shown: int | None = None

    columns = ("facts", "question", "answer")
    prompt_columns = ("facts", "question")
    learns = True
    delimited = False

    def segments(self, record: Mapping[str, Any], dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the prompt's segments and the answer."""
        return [*self.prompt(record, dialect), Segment(str(record["answer"]), learn=True)]

    def prompt(self, record: Mapping[str, Any], dialect: Dialect = PLAIN) -> list[Segment]:
        """Return a line a fact, and the question."""
        facts = record.get("facts")
        if not isinstance(facts, list):
            raise RecordError("", "column 'facts' is no list")
        lines = [
            f"{self.marks[index % len(self.marks)]} {fact}\n"
            for index, fact in enumerate(facts[: self.shown])
        ]
        return [Segment("".join(lines)), Segment(f"{record['question']}\n")]

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return nothing: the EOS ends an answer."""
        return ()

    def chat_template(self, dialect: Dialect) -> str | None:
        """Return None."""
        return None
