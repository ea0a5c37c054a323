"""Look: records and their rows go by once, and a `Preview` is what stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np

import lmkit
from lmkit.chat.rendering import at_time, now
from lmkit.collating import Stream
from lmkit.collating.causal import CausalCollator
from lmkit.encoding import Encoded, Ids, Whole
from lmkit.errors import LmkitError, RecordError
from lmkit.family import Family
from lmkit.formatting import Record, training_texts
from lmkit.previewing import LEVELS, Finding, Preview, Shown, Totals
from lmkit.previewing.checks import Seen, Setting, checks
from lmkit.previewing.checks.repeats import Repeats, rows_in_eval
from lmkit.previewing.measuring import BATCH, Measures
from lmkit.previewing.models import reading
from lmkit.previewing.pairing import Records, encoded_pairs, known_pairs
from lmkit.previewing.spelling import spelled
from lmkit.records import STOP, BadRows, Data, OnBadRow, name_of, nothing_in, where_of
from lmkit.sources import Source
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

ROWS = 2  # rows of the data's beginning that are shown unless more are asked for
ROWS_OF_PAGE = 50  # the same of a page
NARROW = 0.5  # share of padding above which that is worth a note

_STEP = 64  # records between two tellings of progress

Progress = Callable[[int, int], None]


def preview(
    task: Task | str,
    *,
    data: Data,
    model: Any = None,
    tokenizer: Any = None,
    eval_data: Data | None = None,
    rows: int = ROWS,
    choose: Iterable[int] = (),
    limit: int | None = None,
    on_bad_row: str = STOP,
    on_progress: Progress | None = None,
) -> Preview:
    """Return what a model would be trained on, and what is wrong with it.

    Rows are encoded as `train` would: with the model's tokenizer, ended as the task ends answers, and
    no longer than the model reads. No weights are loaded.

    Args:
        task: the task, or its name.
        data: the records, as for `train`.
        model: a hub id, a folder, or a `.gguf` file; a folder with nothing but a tokenizer will do.
        tokenizer: a folder, a tokenizer.json or a loaded tokenizer; None for the model's own.
        eval_data: records that will be measured on: those that are also learned from are found.
        rows: how many of the first rows to show.
        choose: rows to show besides, by their place from 0.
        limit: look at the first so many records only.
        on_bad_row: `stop` gathers up to ten records that do not fit, and raises; `skip` counts them.
        on_progress: called with how many records are done, and how many there are.
    Raises:
        RecordError: the data is missing, or does not fit the task.
        TokenizerError: there is no tokenizer.
        LmkitError: a row that is to be shown is not there.
    """
    from lmkit.registry import one_task

    task = one_task(task)
    bad = BadRows(on_bad_row)
    read = reading(model, tokenizer, [task])
    (fitted,) = read.tasks
    records = _records(task, data, bad, limit)
    measured = () if eval_data is None else _records(task, eval_data, _not_told)
    with at_time(now()):  # a template that prints the time prints one
        found = look(
            fitted,
            records,
            read.tokenizer,
            measured=_rows_of(fitted, measured, read.tokenizer),
            rows=rows,
            choose=choose,
            bad=bad,
            on_progress=on_progress,
            data=name_of(data),
            model=read.name,
        )
    return attrs.evolve(found, findings=ordered([*found.findings, *shortened_rows(task, fitted)]))


def look(
    task: Task,
    records: Sequence[Record] | Records,
    tokenizer: Tokenizer,
    *,
    encoded: tuple[Sequence[Encoded], Ids] | None = None,
    measured: Iterable[tuple[str, Encoded]] = (),
    rows: int = ROWS,
    choose: Iterable[int] = (),
    bad: BadRows | None = None,
    stride: int = 1,
    on_progress: Progress | None = None,
    data: str = "",
    model: str = "",
) -> Preview:
    """Return a preview of records that are read, for a task that is fitted to its model.

    Args:
        task: the task.
        records: as the task's transforms leave them.
        tokenizer: the model's, ready for training.
        encoded: the records' rows, where they are encoded already, and for each the position of its
            record; see `known_pairs`.
        measured: the rows that are measured on, each with its record's place.
        rows: as for `preview`.
        choose: as for `preview`.
        bad: what gathers the records that do not fit, and did so where they were read.
        stride: the checks that encode anew look at each such record only.
        on_progress: as for `preview`.
        data: what the data is called.
        model: what the model is called.
    """
    bad = bad or BadRows()
    if encoded is None:
        pairs = encoded_pairs(task, records, tokenizer, bad)
    else:
        assert not isinstance(records, Records)
        pairs = known_pairs(task, records, *encoded)
    survey = Survey(Setting(task, tokenizer, stride))
    for done, pair in enumerate(pairs, start=1):
        survey.see(*pair)
        if on_progress is not None and not done % _STEP:
            on_progress(done, len(records))
    bad.end()
    survey.end()
    n_records = records.n_read if isinstance(records, Records) else len(records)
    if not len(survey.measures):
        if bad.errors or not n_records:
            raise nothing_in(data, bad.errors[0] if bad.errors else None)
        raise RecordError(data, "no record is left: where() leaves all of them out")
    totals = survey.measures.totals(
        records=n_records,
        dropped=reasons(bad.errors),
        max_length=task.collator.max_length,
        packs=isinstance(task.collator, CausalCollator),
    )
    findings = survey.findings(records)
    findings += rows_dropped(bad.errors, n_records)
    findings += survey.leaked(measured)
    findings += padding(totals, task)
    shown = [
        shown_row(survey, records, place, why, data=data)
        for place, why in survey.picked(rows, choose).items()
    ]
    return Preview(
        task=task.name,
        family=str(task.family),
        data=data,
        model=model,
        shown=tuple(shown),
        totals=totals,
        lengths=survey.measures.lengths(),
        findings=ordered(findings),
        about={"lmkit": lmkit.__version__, "tokenizer": tokenizer.fingerprint[:12]},
    )


def reasons(errors: Sequence[RecordError]) -> dict[str, int]:
    """Return why records became no row, each reason with how many."""
    return dict(Counter(error.problem.partition(";")[0] for error in errors))


def rows_dropped(errors: Sequence[RecordError], of: int) -> list[Finding]:
    """Return what is to be said of records that became no row."""
    if not errors:
        return []
    return [
        Finding(
            name="rows-dropped",
            level="warning",
            text="the record does not fit the task, and is left out",
            remedy="mend the records, or leave them out with task.where(...)",
            count=len(errors),
            of=of,
            where=errors[0].where,
            excerpt=errors[0].problem,
        )
    ]


class Survey:
    """Sees each row once, and keeps what a preview is made of.

    Args:
        setting: what rows are checked for.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.measures = Measures(setting.task.family)
        self.windows: list[Encoded] = []  # of one text
        self._text: list[Encoded] = []
        self._checks = checks(setting)

    def see(self, index: int, record: Record, rows: Sequence[Encoded]) -> None:
        """See a record and its rows."""
        for at, row in enumerate(rows, start=1):
            seen = Seen(
                self.setting,
                record,
                row,
                where=where_of(record, index),
                index=index,
                row_index=len(self.measures),
                last=at == len(rows),
            )
            for check in self._checks:
                if seen.last or not check.of_records:
                    check.see(seen)
            if self.setting.streams:
                self._text.append(row)
            else:
                self.measures.add(row, index)

    def end(self) -> None:
        """Cut one text into the windows that training reads."""
        if self._text:
            collator, tokenizer = self.setting.task.collator, self.setting.tokenizer
            self.windows = list(collator.measured(self._text, tokenizer))
            for window in self.windows:
                self.measures.add(window, 0)

    def findings(self, records: Sequence[Record] | Records) -> list[Finding]:
        """Return what the checks found, each with an example's place."""
        found = []
        for check in self._checks:
            finding = check.finding()
            if finding is not None and not finding.where and check.example is not None:
                record, _ = self.measures.record_of(check.example)
                finding = attrs.evolve(finding, where=where_of(records[record], record))
            if finding is not None:
                found.append(finding)
        return found

    def leaked(self, measured: Iterable[tuple[str, Encoded]]) -> list[Finding]:
        """Return what is found of rows that are measured on."""
        for check in self._checks:
            if isinstance(check, Repeats):
                found = rows_in_eval(check.identities, measured)
                return [] if found is None else [found]
        return []

    def picked(self, first: int, choose: Iterable[int]) -> dict[int, str]:
        """Return the rows to show, by their place, with the reason of each.

        Raises:
            LmkitError: a row that was chosen is not there.
        """
        count = len(self.measures)
        reasons = {place: ["first"] for place in range(min(first, count))}
        for place in choose:
            if not 0 <= place < count:
                raise LmkitError(f"there is no row {place}; the rows are 0 to {count - 1}")
            reasons.setdefault(place, []).append("chosen")
        for why, place in self.measures.extremes().items():
            reasons.setdefault(place, []).append(why)
        if not self.setting.streams:
            found = (check.example for check in self._checks if check.finding() is not None)
            for place in dict.fromkeys(place for place in found if place is not None):
                reasons.setdefault(place, []).append("finding")
        return {place: ", ".join(dict.fromkeys(why)) for place, why in reasons.items()}


def shown_row(
    survey: Survey, records: Sequence[Record] | Records, place: int, why: str, *, data: str
) -> Shown:
    """Return one row token by token."""
    task, tokenizer = survey.setting.task, survey.setting.tokenizer
    if survey.windows:
        row, where = survey.windows[place], f"{data}, window {place}"
        wholes = [Whole(row.input_ids, row.labels, np.ones(len(row), dtype=bool))]
    else:
        record, at = survey.measures.record_of(place)
        where = where_of(records[record], record)
        segments = training_texts(task.formatter, records[record], tokenizer.dialect)[at]
        row = task.collator.encode(segments, tokenizer, delimited=task.formatter.delimited)
        wholes = task.collator.whole(segments, tokenizer, delimited=task.formatter.delimited)
    return Shown(
        index=place,
        where=where,
        why=why,
        tokens=spelled(wholes[0], tokenizer),
        target=spelled(wholes[1], tokenizer) if len(wholes) > 1 else (),
        n_tokens=sum(int(whole.kept.sum()) for whole in wholes),
        n_learned=row.n_learned,
        n_cut=row.n_cut,
    )


def padding(totals: Totals, task: Task) -> list[Finding]:
    """Return what is to be said of batches that are mostly padding."""
    if totals.padding_share <= NARROW:
        return []
    return [
        Finding(
            name="mostly-padding",
            level="note",
            text=f"{totals.padding_share:.0%} of the places in batches of {BATCH} rows hold padding, "
            "though rows of like length stand together, and a model computes for them in vain",
            remedy="train with --pack, or in smaller batches"
            if task.family is Family.CAUSAL
            else "train in smaller batches, or leave out the few rows that are much longer",
            count=totals.rows,
            of=totals.rows,
        )
    ]


def shortened_rows(task: Task, fitted: Task) -> list[Finding]:
    """Return what is to be said of a model that reads less than the task's rows have."""
    wanted, most = task.collator.max_length, fitted.collator.max_length
    if most >= wanted:
        return []
    return [
        Finding(
            name="max-length-above-context",
            level="note",
            text=f"the task's rows may have {wanted} tokens and the model reads {most}, so rows are "
            f"cut to {most}",
            remedy="nothing need be done; --max-length says so openly, or choose a model that reads more",
            count=0,
            of=0,
        )
    ]


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with the worst first."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def _records(task: Task, data: Data, on_bad_row: OnBadRow, limit: int | None = None) -> Records:
    source = Source.open(data, whole=isinstance(task.collator, Stream))
    return Records(task, source, on_bad_row, limit)


def _rows_of(
    task: Task, records: Iterable[Record], tokenizer: Tokenizer
) -> Iterator[tuple[str, Encoded]]:
    """Yield the rows of records that are measured on; unfit ones are not looked at."""
    for index, record, rows in encoded_pairs(task, records, tokenizer, _not_told):
        for row in rows:
            yield where_of(record, index), row


def _not_told(error: RecordError) -> None:
    """Leave a record out that is of no concern here."""
