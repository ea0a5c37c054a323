"""What rows teach: nothing, less than was meant, or the same each time."""

from __future__ import annotations

from array import array

import attrs
import numpy as np

from lmkit.family import Family
from lmkit.previewing import Finding
from lmkit.previewing.checks import Check, Seen, Setting, Tally, above, always

MOST_IDLE = 0.5  # share of rows with nothing to learn above which training is refused
MOST_CUT = 0.5  # share of rows that lose part of an answer above which it is refused
MANY_CUT = 0.1  # share of rows that lose context above which that is worth a warning

FEWEST = 20  # rows of which it says something that all answers are one
ALMOST_ALL = 0.95  # the share of rows with one answer above which a model may learn just that
_SHORT = 8  # tokens; an answer with more is not empty


def nothing_to_learn(setting: Setting) -> Check | None:
    """Return the check for rows without a label."""
    masked = setting.task.family is Family.MASKED
    return Tally(
        name="nothing-to-learn",
        level=above(MOST_IDLE, "error", "warning"),
        text="no token is learned" + (": the tokenizer knows none of the text" if masked else ""),
        remedy="choose a tokenizer that knows the text's writing"
        if masked
        else "raise --max-length, or leave such records out with task.where(...)",
        applies=lambda seen: not seen.row.n_learned,
        excerpt=lambda seen: setting.beginning(seen.row.input_ids),
    )


def answer_cut(setting: Setting) -> Check | None:
    """Return the check for rows that lose a part of what would be learned."""
    if setting.streams or setting.task.family is Family.MASKED:
        return None
    # Where nothing is asked, all is text to go on with, wherever it is cut.
    asked = bool(setting.task.prompt_columns)
    return Tally(
        name="answer-cut",
        level=above(MOST_CUT, "error", "warning") if asked else always("warning"),
        text="part of the answer does not fit into the row and is left out",
        remedy=f"{setting.longer}, or shorten or split the records",
        applies=lambda seen: seen.row.n_cut_learned > 0,
        excerpt=lambda seen: f"{seen.row.n_cut_learned:,} learned tokens left out",
    )


def row_cut(setting: Setting) -> Check | None:
    """Return the check for rows that lose what is only read."""
    if setting.streams:
        return None
    return Tally(
        name="context-cut",
        level=above(MANY_CUT, "warning", "note"),
        text="the row is too long and loses text that is only read; what is learned is whole",
        remedy=f"{setting.longer}, if the lost text matters",
        applies=lambda seen: seen.row.n_cut > 0 and not seen.row.n_cut_learned,
        excerpt=lambda seen: f"{seen.row.n_cut:,} tokens left out",
    )


def empty_answer(setting: Setting) -> Check | None:
    """Return the check for rows whose answer is blank."""
    if setting.streams or setting.task.family is Family.MASKED:
        return None
    tokenizer = setting.tokenizer

    def blank(seen: Seen) -> bool:
        learned = seen.learned
        return 0 < len(learned) <= _SHORT and not tokenizer.decode(learned.tolist()).strip()

    return Tally(
        name="empty-answer",
        level=always("warning"),
        text="the answer is blank, so the model learns to say nothing",
        remedy="leave such records out: task.where(...)",
        applies=blank,
        excerpt=lambda seen: setting.ending(seen.row.input_ids),
    )


def same_answer(setting: Setting) -> Check | None:
    """Return the check for data in which nearly all answers are one."""
    if setting.streams or setting.task.family is Family.MASKED:
        return None
    return SameAnswer(setting)


@attrs.define
class SameAnswer:
    """Counts how often the most frequent answer occurs."""

    setting: Setting
    of_records: bool = False
    _answers: array[int] = attrs.field(factory=lambda: array("q"))
    _first: Seen | None = None

    example: int | None = None

    def see(self, seen: Seen) -> None:
        """Take down a row's answer."""
        self._answers.append(hash(seen.learned.tobytes()))
        if self._first is None:
            self._first = seen

    def finding(self) -> Finding | None:
        """Return what was found, or None."""
        if len(self._answers) < FEWEST:
            return None
        _, counts = np.unique(np.frombuffer(self._answers, dtype=np.int64), return_counts=True)
        most = int(counts.max())
        if most < ALMOST_ALL * len(self._answers):
            return None
        assert self._first is not None
        return Finding(
            name="same-answer",
            level="warning",
            text="nearly all answers are the same, so a model that always says it has learned enough",
            remedy="check the answer's column, or balance the data",
            count=most,
            of=len(self._answers),
            where=self._first.where,
            excerpt=self.setting.ending(self._first.learned),
        )
