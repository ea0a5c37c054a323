"""Encode: segments become ids and labels.

The one label convention, for every family: a label stands at the position of its own token, and
`IGNORE` stands where nothing is learned. Labels are never shifted here; the model's head shifts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.decoding import Chooser
from lmkit.errors import ConversationError, PromptTooLong, RecordError
from lmkit.family import Family
from lmkit.formatting import Record, Segment, training_texts
from lmkit.records import BadRows, Row, where_of
from lmkit.tokenizing import Span, Tokenizer
from lmkit.transforms import transformed

if TYPE_CHECKING:
    from lmkit.task import Task

IGNORE = -100  # Source: the index that torch's cross_entropy leaves out by default

Ids = NDArray[np.int64]
Made = TypeVar("Made")
Given = TypeVar("Given")

AT_ONCE = 512  # records that are read ahead together


@attrs.frozen(eq=False)
class Encoded:
    """One row before padding.

    Attributes:
        input_ids: int64 [T]; of a seq2seq row the source's ids.
        labels: int64 [T], the token's own id where it is learned, `IGNORE` elsewhere; of a seq2seq
            row the target's ids, int64 [L]; of a masked row every token that may be hidden.
        n_cut: how many ids did not fit and were left out.
        n_cut_learned: how many of those would have been learned.
        family: how the model reads the row.
        group: in a mixture, which of its tasks the row is of.
    """

    input_ids: Ids
    labels: Ids
    n_cut: int = 0
    family: Family = Family.CAUSAL
    group: int = 0
    n_cut_learned: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def n_learned(self) -> int:
        """The number of tokens that the loss sees; a causal row's first has nothing before it."""
        return int((self.labels[1 if self.family.shifts else 0 :] != IGNORE).sum())


@runtime_checkable
class StoredRows(Protocol):
    """Rows that are not all in memory, and know what else would have to be read from each."""

    @property
    def lengths(self) -> Ids:
        """Every row's length in tokens, as `lengths_of` has it."""

    def learnable(self) -> Sequence[Encoded]:
        """Return the rows in which something is learned."""


def lengths_of(rows: Sequence[Encoded]) -> Ids:
    """Return each row's length in tokens, of a seq2seq row its source's and its target's together.

    Args:
        rows: N rows.
    Returns:
        int64 [N].
    """
    if isinstance(rows, StoredRows):
        return rows.lengths
    found = [len(row) + len(row.labels) * (row.family is Family.SEQ2SEQ) for row in rows]
    return np.array(found, dtype=np.int64)


def learnable(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """Return the rows in which something is learned."""
    if isinstance(rows, StoredRows):
        return rows.learnable()
    return [row for row in rows if row.n_learned]


@attrs.frozen(eq=False)
class Whole:
    """One text of a row before it is cut: what `preview` shows.

    Attributes:
        input_ids: int64 [N].
        labels: int64 [N], as in `Encoded`; a seq2seq target's are its own ids.
        kept: bool [N], false where the id is left out of the row.
    """

    input_ids: Ids
    labels: Ids
    kept: NDArray[np.bool_]

    @property
    def n_cut(self) -> int:
        """The number of ids that are left out."""
        return len(self.kept) - int(np.count_nonzero(self.kept))

    @property
    def n_cut_learned(self) -> int:
        """The number of those that would have been learned."""
        return int(np.count_nonzero(~self.kept & (self.labels != IGNORE)))

    def encoded(self, family: Family) -> Encoded:
        """Return the row that is left of it."""
        if not self.n_cut:
            return Encoded(self.input_ids, self.labels, 0, family)
        return Encoded(
            self.input_ids[self.kept],
            self.labels[self.kept],
            self.n_cut,
            family,
            n_cut_learned=self.n_cut_learned,
        )


@attrs.frozen
class Stretch:
    """The ids of neighbouring segments that are all learned or all read."""

    ids: list[int]
    learn: bool


def stretches(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[Stretch]:
    """Encode segments, splitting where learning starts and stops.

    A token never crosses such an edge, so the ids of a prompt are by construction the first ids of
    the training row, whatever the tokenizer would have merged.
    """
    encoded: list[Stretch] = []
    opens = True
    for learn, spans in runs(segments):
        ids = tokenizer.encode_spans(spans, opens=opens)
        opens = tokenizer.reopens_after(spans) or (opens and not ids)
        encoded.append(Stretch(ids, learn))
    return encoded


def owners(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[Ids]:
    """Return of each stretch which segment each of its ids is of, int64 [T]: the one it ends in."""
    found: list[Ids] = []
    opens, first = True, 0
    for _, spans in runs(segments):
        found.append(first + tokenizer.owners(spans, opens=opens))
        opens = tokenizer.reopens_after(spans) or (opens and not len(found[-1]))
        first += len(spans)
    return found


def runs(segments: Sequence[Segment]) -> list[tuple[bool, list[Span]]]:
    """Return neighbours that are all learned or all read, as what a tokenizer encodes as one."""
    found: list[tuple[bool, list[Span]]] = []
    for segment in segments:
        if not found or found[-1][0] != segment.learn:
            found.append((segment.learn, []))
        found[-1][1].append(
            Span(segment.text, segment.trusted, segment.learn and not segment.quoted)
        )
    return found


def read_ahead(texts: Iterable[Sequence[Segment]], tokenizer: Tokenizer, family: Family) -> None:
    """Have the tokenizer encode the stretches of many texts at once; see `Tokenizer.read_ahead`."""
    tokenizer.read_ahead(_openings(texts, tokenizer, apart=family is Family.SEQ2SEQ))


def _openings(
    texts: Iterable[Sequence[Segment]], tokenizer: Tokenizer, *, apart: bool
) -> Iterator[tuple[list[Span], bool]]:
    """Yield the spans of each stretch and whether it opens a text, as far as the words tell."""
    for segments in texts:
        opens = True
        for _, spans in runs(segments):
            yield spans, opens
            written = any(span.text for span in spans)
            opens = apart or tokenizer.reopens_after(spans) or (opens and not written)


def joined(body: Iterable[Stretch]) -> list[int]:
    """Return the ids of stretches, one after the other."""
    return list(itertools.chain.from_iterable(stretch.ids for stretch in body))


def texts_to_read(rows: Sequence[Encoded]) -> tuple[list[Ids], list[int]]:
    """Return what a causal model must read to score some rows, and which text is each row's.

    The last token of a row is predicted and predicts nothing, so it is not read; and a text that
    another one begins with is read there. Labels of one token behind one prompt are one text.

    Args:
        rows: B rows.
    Returns:
        Up to B texts, each int64 [T], the longest first, and for each row the index of its text.

    >>> rows = [Encoded(np.array([5, 6, last]), np.array([-100, -100, last])) for last in (7, 8)]
    >>> texts_to_read(rows)
    ([array([5, 6])], [0, 0])
    """
    needed = [row.input_ids[: max(1, len(row) - 1)] for row in rows]
    texts: list[Ids] = []
    which = [0] * len(rows)
    for index in sorted(range(len(rows)), key=lambda index: -len(needed[index])):
        wanted = needed[index]
        known = (at for at, text in enumerate(texts) if np.array_equal(text[: len(wanted)], wanted))
        which[index] = next(known, len(texts))
        if which[index] == len(texts):
            texts.append(wanted)
    return texts, which


def encode(task: Task | str, records: Iterable[Record], tokenizer: Any) -> list[Encoded]:
    """Return each record's ids and labels.

    Args:
        task: what decides the text, what of it is learned, and how it is cut; or its name.
        records: rows with the task's columns.
        tokenizer: a folder, a tokenizer.json, or a loaded tokenizer.
    Returns:
        One `Encoded` for each training text, in order: `input_ids` and `labels`, int64 [T]. A record
        that the task's transforms keep is one text, and several where a chat template rewrites what
        was said before.
    Raises:
        RecordError: a record lacks a column, or a column is of the wrong type.
        RecordErrors: several do; up to ten are gathered.
        ConversationError: the chat template refuses a record's; it is one of those RecordErrors.
    """
    from lmkit.registry import one_task

    if isinstance(records, Mapping):
        raise RecordError("", "records is a single record; expected a list of them")
    task = one_task(task)
    if task.transforms:
        records = transformed(task.transforms, records, name="records")
    return list(encode_rows(task, records, Tokenizer.load(tokenizer)))


def encode_rows(
    task: Task,
    records: Iterable[Record],
    tokenizer: Tokenizer,
    *,
    on_bad_row: Callable[[RecordError], None] | None = None,
) -> Iterator[Encoded]:
    """Yield the ids and labels of each training text of records that are transformed.

    Args:
        task: as for `encode`.
        records: as for `encode`.
        tokenizer: the model's.
        on_bad_row: what is told of each unfit record, which is then left out. Without it, up to ten
            are gathered and raised together.
    Raises:
        RecordError, RecordErrors: as for `encode`.
    """
    gathered = BadRows()
    tell = on_bad_row or gathered
    for _, made in each_encoded(task, records, tokenizer):
        if isinstance(made, RecordError):
            tell(made)
        elif not gathered.errors:
            yield from made
    gathered.end()


def each_encoded(
    task: Task, records: Iterable[Record], tokenizer: Tokenizer
) -> Iterator[tuple[Record, list[Encoded] | RecordError]]:
    """Yield each record with the rows of its training texts, or with what is wrong with it.

    Args:
        task: as for `encode`.
        records: those that are transformed; so many at a time are read ahead.
        tokenizer: the model's.
    """
    chooses = isinstance(task.decoder, Chooser)

    def texts(record: Record) -> list[list[Segment]]:
        found = training_texts(task.formatter, record, tokenizer.dialect)
        if chooses:
            task.reference(record, tokenizer.dialect)  # an answer that is no label is refused
        return found

    def encoded(found: list[list[Segment]]) -> list[Encoded]:
        delimited = task.formatter.delimited
        return [task.collator.encode(text, tokenizer, delimited=delimited) for text in found]

    places = ((where_of(record, index), record) for index, record in enumerate(records))
    while some := list(itertools.islice(places, AT_ONCE)):
        made = [_attempted(texts, record, where) for where, record in some]
        fit = (found for found in made if not isinstance(found, RecordError))
        read_ahead(itertools.chain.from_iterable(fit), tokenizer, task.family)
        for (where, record), found in zip(some, made, strict=True):
            if isinstance(found, RecordError):
                yield record, found
            else:
                yield record, _attempted(encoded, found, where)
    tokenizer.read_ahead(())


def each(
    records: Iterable[Record],
    make: Callable[[Record], Made],
    *,
    on_bad_row: Callable[[RecordError], None] | None = None,
) -> Iterator[Made]:
    """Yield what is made of each record; errors name the record, and up to ten are raised together.

    Args:
        records: the records.
        make: what is made of one.
        on_bad_row: as for `encode_rows`.
    Raises:
        RecordError: a record is unfit.
        RecordErrors: several are; nothing is yielded behind the first.
    """
    gathered = BadRows()
    tell = on_bad_row or gathered
    for index, record in enumerate(records):
        made = _attempted(make, record, where_of(record, index))
        if isinstance(made, RecordError):
            tell(made)
        elif not gathered.errors:
            yield made
    gathered.end()


def _attempted(make: Callable[[Given], Made], given: Given, where: str) -> Made | RecordError:
    """Return what is made of something, or the error that says why not, with its place."""
    try:
        return make(given)
    except RecordError as error:
        return _placed(error, where)


def prompt_ids(task: Task | str, record: Record, tokenizer: Any) -> Ids:
    """Return the ids that a model is given at inference.

    Args:
        task: the task, or its name.
        record: a row with the task's prompt columns; the answer's column is not read.
        tokenizer: as for `encode`.
    Returns:
        int64 [P]. For a causal task these are the first P ids of the training row.
    Raises:
        RecordError: the record lacks a column, or a column is of the wrong type; a masked task's has
            no mask token.
    """
    from lmkit.registry import one_task

    return _prompt_ids(one_task(task), record, Tokenizer.load(tokenizer))


def _prompt_ids(task: Task, record: Record, tokenizer: Tokenizer, most: int | None = None) -> Ids:
    try:
        segments = task.formatter.prompt(record, tokenizer.dialect)
        if most is not None:
            follows, where = task.family.shifts, where_of(record, 0)
            _check_opening(segments, tokenizer, most, answer_follows=follows, where=where)
        return task.collator.prompt(segments, tokenizer, delimited=task.formatter.delimited)
    except RecordError as error:
        raise _placed(error, where_of(record, 0)) from error


# Characters of a text, for each token that there is room for, by which it is judged before the rest of
# it is encoded: twice what a token of English has.
_OPENING = 8


def _check_opening(
    segments: Sequence[Segment],
    tokenizer: Tokenizer,
    most: int,
    *,
    answer_follows: bool,
    where: str,
) -> None:
    """Refuse a text whose opening is too long already, before a million characters are encoded.

    What follows changes the last few tokens of an opening at the most, so with a quarter more than
    there is room for the whole cannot fit. A text that is not much longer is encoded at once.
    """
    left = _OPENING * most
    if sum(len(segment.text) for segment in segments) <= 2 * left:
        return
    opening: list[Segment] = []
    for segment in segments:
        opening.append(attrs.evolve(segment, text=segment.text[:left]))
        left -= len(opening[-1].text)
        if not left:
            break
    n_tokens = len(joined(stretches(opening, tokenizer)))
    if n_tokens > most + most // 4 + 16:
        raise PromptTooLong(
            n_tokens, most, answer_follows=answer_follows, at_least=True, where=where
        )


def fitting_prompt(
    task: Task, record: Record, tokenizer: Tokenizer, *, most: int | None, index: int = 0
) -> Ids:
    """Return a prompt's ids, int64 [P], which fit the model, of a causal one with an answer.

    Args:
        task: the task.
        record: as for `prompt_ids`.
        tokenizer: the model's.
        most: the most tokens that the model can hold, or None. Of one text, only as many of its last
            tokens are read as fit a row, so its opening may be of any length.
        index: the record's place among those that are answered with it.
    Raises:
        RecordError: as for `prompt_ids`; the text names the record.
        PromptTooLong: the prompt leaves no room; the text names the record.
    """
    from lmkit.collating import Stream

    if isinstance(record, Mapping) and not isinstance(record, Row):
        record = Row(record, f"record {index}")
    if isinstance(task.collator, Stream):
        return _prompt_ids(task, record, tokenizer)
    # Where the task says so, down to what it reads of a source.
    cuts = task.family is Family.SEQ2SEQ
    ids = _prompt_ids(task, record, tokenizer, None if cuts else most)
    needed = len(ids) + task.family.shifts  # a causal model's answer stands in the same context
    if most is not None and needed > most:
        where = where_of(record, index)
        raise PromptTooLong(len(ids), most, answer_follows=task.family.shifts, where=where)
    return ids


def _placed(error: RecordError, where: str) -> RecordError:
    """Return an error with a record's place, unless it has one."""
    if error.where:
        return error
    kind = ConversationError if isinstance(error, ConversationError) else RecordError
    return kind(where, error.problem)
