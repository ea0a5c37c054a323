"""A task under test: its records, the tokenizers it is tried with, and how its text is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.aligning import with_ends, with_stops
from lmkit.encoding import IGNORE, Encoded, encode
from lmkit.errors import LmkitError, RecordError
from lmkit.family import Family
from lmkit.formatting import Segment
from lmkit.previewing.printing import visible
from lmkit.records import Row
from lmkit.task import Task
from lmkit.testing.toys import toy_tokenizer
from lmkit.tokenizing import Tokenizer

MOST_SHOWN = 600  # characters of a text or a record; of a longer one the middle is left out


@attrs.define(eq=False)
class Case:
    """What one check is about.

    Attributes:
        task: the task, without the transforms, which the records have been through.
        declared: the task as it was given.
        records: what it is tried on, one at least.
        tokenizers: those it is tried with, by name.
        folder: an empty folder to work in.
        given: whether the tokenizer was chosen by the caller.
        current: the record that is looked at, so that an error can show it.
        kept: what one promise leaves to the next, such as a trained model.
    """

    task: Task
    declared: Task
    records: tuple[Row, ...]
    tokenizers: Mapping[str, Tokenizer]
    folder: Path
    given: bool = False
    current: Row | None = None
    kept: dict[str, Any] = attrs.field(factory=dict)

    def each(self) -> Iterator[Row]:
        """Yield each record; an error that comes meanwhile is about it."""
        for record in self.records:
            self.current = record
            yield record
        self.current = None

    def with_each(self) -> Iterator[tuple[str, Tokenizer, Row]]:
        """Yield each record with each tokenizer, named and aligned with the task as in training."""
        for name, tokenizer in self.tokenizers.items():
            ready = self.aligned(tokenizer)
            for record in self.each():
                yield name, ready, record

    def aligned(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return a tokenizer as training would leave it: its EOS is what ends an answer."""
        return with_stops(with_ends(tokenizer, self.task.family), self.task.formatter)[0]

    def row(self, record: Row, tokenizer: Tokenizer) -> Encoded | None:
        """Return a record's last training row, or None where nothing of it is learned."""
        try:
            found = encode(self.task, [record], tokenizer)[-1]
        except RecordError as error:
            if "nothing in it is learned" in str(error):
                return None  # the promise nothing_to_learn tells it
            raise
        return found

    def facts(self) -> dict[str, str]:
        """Return the record that is looked at, its place, and its text with what is learned marked."""
        if self.current is None:
            return {}
        written = json.dumps(self.current, ensure_ascii=False, default=repr)
        return {
            "record": f"{self.current.where}  {shortened(written)}",
            "text": shortened(marked(self.task, self.current)),
        }


def marked(task: Task, record: Mapping[str, Any]) -> str:
    """Return a record's training text, what is learned of it in «», control tokens in ⟦⟧.

    The text is read off the row that the collator makes, in labels where there are any, so that a
    label which is out of place shows. Where there is no row it is read off the segments.
    """
    toy = toy_tokenizer()
    try:
        row = encode(task, [record], with_stops(with_ends(toy, task.family), task.formatter)[0])[-1]
    except Exception:  # what is shown must not hide what is wrong
        try:
            return visible(_of_segments(task.formatter.segments(record, toy.dialect)))
        except Exception as error:
            return f"(none: {error})" if isinstance(error, LmkitError) else ""
    if task.family is Family.SEQ2SEQ:
        source = np.full_like(row.input_ids, IGNORE)
        return f"{_of_ids(row.input_ids, source)} → {_of_ids(row.labels, row.labels)}"
    return _of_ids(row.input_ids, row.labels)


def _of_segments(segments: list[Segment]) -> str:
    return "".join(f"«{part.text}»" if part.learn else part.text for part in segments)


def _of_ids(input_ids: Any, labels: Any) -> str:
    toy = toy_tokenizer()
    parts, learning = [], False
    for token, label in zip(input_ids.tolist(), labels.tolist(), strict=True):
        learns = label != IGNORE
        if learns is not learning:
            parts.append("«" if learns else "»")
            learning = learns
        shown = label if learns else token
        text = visible(toy.decode([shown], skip_control=False))
        parts.append(f"⟦{text}⟧" if toy.is_control(shown) else text)
    return "".join([*parts, "»" if learning else ""])


def shortened(text: str) -> str:
    """Return a text, or both its ends where it is long."""
    if len(text) <= MOST_SHOWN:
        return text
    half = MOST_SHOWN // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} more … {text[-half:]}"
