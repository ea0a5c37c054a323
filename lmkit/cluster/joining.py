"""Join: answers come in parts, in any order, and go to the output in the order of the records.

A part whose turn it is not yet waits in a folder beside the output, `answers.jsonl.parts`, so that a run
that was stopped goes on from all it has. The output itself is at any time what the local engine would
have written so far, and either engine continues it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lmkit.answering.lines import is_answer
from lmkit.cluster.spans import Span
from lmkit.errors import RecordError
from lmkit.files import folder_for, write_atomically
from lmkit.records import Row

_NAME = re.compile(r"(\d+)-(\d+)\.jsonl")
_HALF_WRITTEN = re.compile(rf"\.{_NAME.pattern}\.part")  # what `write_atomically` writes first


class Waiting:
    """The folder of parts whose turn it is not yet; it is there while there are any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def beside(cls, output: Path) -> Waiting:
        """Return the folder that belongs to an output."""
        return cls(output.with_name(f"{output.name}.parts"))

    def spans(self) -> list[Span]:
        """Return which rows' answers wait, in order."""
        if not self.folder.is_dir():
            return []
        found = map(_NAME.fullmatch, (path.name for path in self.folder.iterdir()))
        return sorted(Span(int(name[1]), int(name[2])) for name in found if name)

    def keep(self, first: int, lines: Sequence[str]) -> None:
        """Write a part, whole or not at all."""
        file = self._file(Span(first, len(lines)))
        folder_for(file)
        write_atomically(file, "".join(f"{line}\n" for line in lines))

    def lines(self, span: Span) -> list[str]:
        """Return a part's lines.

        Raises:
            RecordError: the file is not what was written.
        """
        file = self._file(span)
        lines = file.read_text("utf-8").split("\n")
        if lines.pop() or len(lines) != span.count:
            raise RecordError(
                str(file), f"has not the {span.count} lines that it should; remove it"
            )
        return lines

    def remove(self, span: Span) -> None:
        """Remove a part, and the folder with the last one."""
        self._file(span).unlink(missing_ok=True)
        self._remove_if_empty()

    def remove_half_written(self) -> None:
        """Remove what a kill left of a part that was being written, and a folder that holds no more."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                if _HALF_WRITTEN.fullmatch(file.name):
                    file.unlink(missing_ok=True)
            self._remove_if_empty()

    def check(self, rows: Iterable[Row]) -> None:
        """Compare what waits with the records that it should answer.

        Args:
            rows: all records, from the first.
        Raises:
            RecordError: a part answers other records, so it is another input's.
        """
        spans = self.spans()
        lines: dict[int, list[str]] = {}
        for index, row in enumerate(rows):
            while spans and spans[0].first <= index:
                span = spans.pop(0)
                lines[span.first] = self.lines(span)
            for first, some in list(lines.items()):
                if not is_answer(some[index - first].encode(), row):
                    raise self._foreign(Span(first, len(some)))
                if first + len(some) == index + 1:
                    del lines[first]
            if not spans and not lines:
                return
        for span in [Span(first, len(some)) for first, some in lines.items()] + spans:
            raise self._foreign(span)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # others are in it
            self.folder.rmdir()

    def _foreign(self, span: Span) -> RecordError:
        return RecordError(
            str(self._file(span)),
            "holds answers to other records than this input's, so it is another run's and is left as "
            "it is; choose another --output, or remove it",
        )

    def _file(self, span: Span) -> Path:
        return self.folder / f"{span.first:012}-{span.count:06}.jsonl"


class Joiner:
    """Takes parts as they come, and hands their lines on in order, each once.

    Args:
        write: is given lines whose turn it is; they are kept when it returns.
        waiting: where the others wait.
        done: how many rows' answers were handed on before.
    """

    def __init__(
        self, write: Callable[[Sequence[str]], object], waiting: Waiting, *, done: int = 0
    ) -> None:
        self.done = done
        self._write = write
        self._waiting = waiting
        self._spans = set(waiting.spans())
        self._hand_on()

    @property
    def waiting(self) -> int:
        """How many rows' answers wait."""
        return sum(span.count for span in self._spans)

    def add(self, first: int, lines: Sequence[str]) -> None:
        """Take a part.

        Args:
            first: the index of its first row.
            lines: an answer's line for each row.
        """
        if first <= self.done:
            self._pass(first, lines)
            self._hand_on()
        else:
            self._waiting.keep(first, lines)
            self._spans.add(Span(first, len(lines)))

    def _hand_on(self) -> None:
        for span in sorted(self._spans):
            if span.first > self.done:
                return
            self._pass(span.first, self._waiting.lines(span))
            self._waiting.remove(span)
            self._spans.remove(span)

    def _pass(self, first: int, lines: Sequence[str]) -> None:
        """Hand on those of a part's lines that were not yet: a part may come twice."""
        new = lines[self.done - first :]
        if new:
            self._write(new)
            self.done += len(new)
