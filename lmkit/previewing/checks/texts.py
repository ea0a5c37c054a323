"""What is in a record's text, and what of it comes through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from lmkit.family import Family
from lmkit.formatting import Dropping
from lmkit.previewing import Finding
from lmkit.previewing.checks import MOST_CELLS, Check, Seen, Setting, Tally, above, always
from lmkit.renaming import messages_column
from lmkit.showing import shortened

MANY_SPELLED = 0.01  # share of records with control tokens above which they look templated already
MOST_UNKNOWN = 0.01  # share of tokens
_AROUND = 24  # characters on each side of what an excerpt is about


def control_tokens(setting: Setting) -> Check | None:
    """Return the check for records whose text spells control tokens."""
    tokens = sorted((token.text for token in setting.tokenizer.control), key=len, reverse=True)
    if not tokens:
        return None
    pattern = re.compile("|".join(map(re.escape, tokens)))
    columns = setting.task.columns

    def found(seen: Seen) -> tuple[str, re.Match[str]] | None:
        for text in _texts([seen.record.get(column) for column in columns]):
            if match := pattern.search(text):
                return text, match
        return None

    def excerpt(seen: Seen) -> str:
        place = found(seen)
        assert place is not None
        text, match = place
        around = text[max(0, match.start() - _AROUND) : match.end() + _AROUND]
        return shortened(around, MOST_CELLS)

    return Tally(
        name="control-tokens-in-data",
        level=above(MANY_SPELLED, "warning", "note"),
        text="the record's text spells a control token; it is read as plain text and steers nothing",
        remedy="if the data was put into a template before, give the plain messages or columns and let "
        "the task do that; otherwise nothing need be done",
        applies=lambda seen: found(seen) is not None,
        excerpt=excerpt,
        of_records=True,
    )


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, Mapping):
        yield from _texts(list(part.values()))
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _texts(inner)


def unknown_tokens(setting: Setting) -> Check | None:
    """Return the check for text that the tokenizer does not know."""
    return None if setting.tokenizer.unknown_id is None else UnknownTokens(setting)


@attrs.define
class UnknownTokens:
    """Counts unknown tokens."""

    setting: Setting
    of_records: bool = False
    example: int | None = None
    _unknown: int = 0
    _tokens: int = 0
    _rows: int = 0
    _of: int = 0
    _where: str = ""
    _excerpt: str = ""

    def see(self, seen: Seen) -> None:
        """Count those of a row."""
        row, unknown = seen.row, self.setting.tokenizer.unknown_id
        parts = [row.input_ids]
        if row.family is Family.SEQ2SEQ:
            parts.append(row.labels)
        count = sum(int(np.count_nonzero(part == unknown)) for part in parts)
        self._unknown += count
        self._tokens += sum(map(len, parts))
        self._of += 1
        self._rows += count > 0
        if count and self.example is None:
            self.example, self._where, self._excerpt = (
                seen.row_index,
                seen.where,
                self._of_row(seen),
            )

    def _of_row(self, seen: Seen) -> str:
        columns = [seen.record.get(column) for column in self.setting.task.columns]
        marks = self.setting.tokenizer.unknown_in("".join(_texts(columns))[:2000])
        if marks:
            return "no token for " + shortened(" ".join(marks), MOST_CELLS)
        ids = seen.row.input_ids
        at = int(np.argmax(ids == self.setting.tokenizer.unknown_id))
        return self.setting.excerpt(ids[max(0, at - 6) : at + 6])

    def finding(self) -> Finding | None:
        """Return what was found, or None where it is a small share."""
        if not self._tokens or self._unknown <= MOST_UNKNOWN * self._tokens:
            return None
        return Finding(
            name="unknown-tokens",
            level="warning",
            text=f"{self._unknown / self._tokens:.1%} of the tokens are unknown: the model sees none of "
            "the text that they stand for",
            remedy="choose a model whose tokenizer knows the text's writing, or learn a tokenizer "
            "from the data (--tokenizer bpe:8000)",
            count=self._rows,
            of=self._of,
            where=self._where,
            excerpt=self._excerpt,
        )


def text_dropped(setting: Setting) -> Check | None:
    """Return the check for words of a record that no row has."""
    formatter, dialect = setting.task.formatter, setting.tokenizer.dialect
    if not isinstance(formatter, Dropping):
        return None
    return Tally(
        name="text-dropped",
        level=always("warning"),
        text="the chat template leaves out words of the record",
        remedy="choose a template that writes them, as in Chat(template=...), if they are to be learned",
        applies=lambda seen: bool(formatter.dropped(seen.record, dialect)),
        excerpt=lambda seen: shortened(
            " … ".join(formatter.dropped(seen.record, dialect)), MOST_CELLS
        ),
        of_records=True,
        stride=setting.stride,
    )


def unanswered_turn(setting: Setting) -> Check | None:
    """Return the check for conversations whose last turn nobody answers."""
    column = messages_column(setting.task.formatter)
    if column is None:
        return None
    return Tally(
        name="unanswered-turn",
        level=always("note"),
        text="the conversation does not end with the assistant's turn; what follows that is only read",
        remedy="nothing need be done; or cut such conversations at their last answer",
        applies=lambda seen: seen.record[column][-1].get("role") != "assistant",
        excerpt=lambda seen: shortened(str(seen.record[column][-1].get("content", "")), MOST_CELLS),
        of_records=True,
    )
