"""Fill: a masked text goes in, what would stand in its masks comes out, through torch or without.

Both sides give the logits of padded rows; all else is here: what is given to the model, how rows are
put together, and how its logits are read. `lmkit.runtime.masked` and `lmkit.train.answering` are the
two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Self, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.answering.logits import Logits, LogProbs, log_probs_of, rows_together
from lmkit.answering.loss import Loss
from lmkit.answering.streaming import in_one_piece
from lmkit.collating import padded
from lmkit.collating.masked import mask_of
from lmkit.decoding import Answer, Filler, Usage
from lmkit.encoding import IGNORE, Encoded, Ids, fitting_prompt
from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.formatting import Record, column_text
from lmkit.records import Row
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

ROWS_AT_ONCE = 8

Marks = NDArray[np.bool_]


@attrs.frozen(kw_only=True, eq=False)
class MaskAnswerer:
    """A task with a masked model.

    Attributes:
        task: what to do.
        tokenizer: the model's, with a mask and a pad token.
        context_length: the most tokens that the model can hold, or None.
        vocab_size: the numbers in a row of logits.
        read: returns the logits, float32 [N, V], of N marked tokens, row after row; it is given ids
            and their attention mask, int64 [B, T], and the marks, bool [B, T].
        picks: whether `read` computes the logits of no other tokens, so that more rows fit at once.
    """

    task: Task
    tokenizer: Tokenizer
    context_length: int | None
    vocab_size: int
    read: Callable[[Ids, Ids, Marks], Logits] = attrs.field(repr=False)
    picks: bool = False

    def __call__(self, record: Record, **options: Any) -> Answer:
        """Fill the masks of one record.

        Args:
            record: the task's prompt columns, with a mask token in one of them.
            options: none; a masked model writes nothing that could be steered.
        Raises:
            RecordError: a column is missing or of the wrong type, or there is no mask token.
            PromptTooLong: the text does not fit the model.
            TaskError: an option was given.
        """
        return self.batch([record], **options)[0]

    def with_task(self, task: Task) -> Self:
        """Return the same model under another task of its family."""
        return attrs.evolve(self, task=task)

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the filled text, at once; arguments and errors are those of a call."""
        return in_one_piece(self(record, **options))

    def batch(
        self, records: Sequence[Record], *, batch_size: int = ROWS_AT_ONCE, **options: Any
    ) -> list[Answer]:
        """Fill the masks of records, several in each pass of the model; the order is kept."""
        self.check_options(options)
        if batch_size < 1:
            raise TaskError(f"batch_size is {batch_size}; expected 1 or more")
        prompts = [self.prompt(record, index) for index, record in enumerate(records)]
        return self.filled(prompts, batch_size=batch_size)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse whatever a caller says of generation."""
        if options:
            raise TaskError(
                f"task '{self.task.name}' fills masks and writes nothing freely, so "
                f"{', '.join(sorted(options))} cannot be set; what fills are given is for the "
                f"task's {type(self.task.decoder).__name__} to say"
            )

    def filled(self, prompts: Sequence[Ids], *, batch_size: int = ROWS_AT_ONCE) -> list[Answer]:
        """Fill the masks of what `prompt` has made of records, int64 [P] each; the order is kept."""
        answers: list[Answer | None] = [None] * len(prompts)
        marks = [prompt == self.tokenizer.mask_id for prompt in prompts]
        for index, logits in self.logits(prompts, batch_size=batch_size, marks=marks):
            answers[index] = self._answer(prompts[index], logits)
        return cast("list[Answer]", answers)

    def prompt(self, record: Record, index: int = 0) -> Ids:
        """Return what the model is given for a record, int64 [P]; errors are those of a call."""
        most = self.context_length
        return fitting_prompt(self.task, record, self.tokenizer, most=most, index=index)

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's hidden tokens, float64 [L] a row, in nats."""
        found = [np.empty(0)] * len(rows)
        texts, marks = [row.input_ids for row in rows], [row.labels != IGNORE for row in rows]
        for index, logits in self.logits(texts, batch_size=len(rows), marks=marks):
            found[index] = log_probs_of(logits, rows[index].labels[marks[index]])
        return found

    def score(self, rows: Sequence[Encoded]) -> Loss:
        """Return the loss over some rows' hidden tokens."""
        return Loss.over(self.log_probs(rows))

    def best(self, prompts: Sequence[Ids]) -> list[list[int]]:
        """Return the likeliest token for each mask of each prompt, int64 [P]."""
        found: list[list[int]] = [[]] * len(prompts)
        marks = [prompt == self.tokenizer.mask_id for prompt in prompts]
        for index, logits in self.logits(prompts, batch_size=ROWS_AT_ONCE, marks=marks):
            found[index] = logits.argmax(axis=1).tolist()
        return found

    def logits(
        self, rows: Sequence[Ids], *, batch_size: int, marks: Sequence[Marks] | None = None
    ) -> Iterator[tuple[int, Logits]]:
        """Yield each row's place and the logits of its tokens, those of like length together.

        Args:
            rows: int64 [T] each.
            batch_size: how many are read at once, at the most.
            marks: whose logits are wanted, bool [T] each; None for all of them.
        Returns:
            Pairs of a place and float32 [K, V], where a row has K tokens that are wanted.
        """
        pad_id = self.tokenizer.pad_id
        assert pad_id is not None
        marks = [np.ones(len(row), np.bool_) for row in rows] if marks is None else marks
        lengths = [len(row) for row in rows]
        for group in rows_together(lengths, self._floats_per_token(marks), batch_size):
            ids, mask = padded([rows[index] for index in group], pad_id)
            wanted = np.zeros(ids.shape, dtype=np.bool_)
            for row, index in zip(wanted, group, strict=True):
                row[: lengths[index]] = marks[index]
            ends = np.cumsum(wanted.sum(axis=1))[:-1]
            yield from zip(group, np.split(self.read(ids, mask, wanted), ends), strict=True)

    def _floats_per_token(self, marks: Sequence[Marks]) -> int:
        """Return how many logits are held for each token of a row, at the most."""
        share = max((row.mean() for row in marks), default=1.0) if self.picks else 1.0
        return max(1, ceil(self.vocab_size * share))

    def _answer(self, prompt: Ids, logits: Logits) -> Answer:
        """Return what is in the masks, whose logits these are, float32 [M, V]."""
        at = prompt == self.tokenizer.mask_id
        filled = prompt.copy()
        filled[at] = logits.argmax(axis=1)
        fills = filled[at].tolist()
        # Pages that are only zeros are never touched, so this takes no room for the other tokens.
        whole = np.zeros((len(prompt), logits.shape[1]), dtype=np.float32)
        whole[at] = logits
        decoder = self.task.decoder
        assert isinstance(decoder, Filler)  # the task's own check
        return Answer(
            value=decoder.fill(prompt, whole, self.tokenizer),
            text=self.tokenizer.decode(filled.tolist()),
            finish_reason="stop",
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(fills)),
            token_ids=tuple(fills),
        )


def posed(task: Task, row: Row, tokenizer: Tokenizer) -> Row:
    """Return a training record as a model is asked it: of a masked task with a word hidden.

    A masked text in which something is hidden already stays as it is.
    """
    if task.family is not Family.MASKED or _mask_in(task, row, tokenizer):
        return row
    return Row(with_mask(task, row, tokenizer), row.where)


def expected(task: Task, row: Row, tokenizer: Tokenizer) -> Any:
    """Return what a training record would have a model answer: of a masked task the whole text."""
    dialect = tokenizer.dialect
    if task.family is not Family.MASKED:
        return task.reference(row, dialect)
    return "".join(segment.text for segment in task.formatter.segments(row, dialect))


def said(task: Task, answer: Answer) -> Any:
    """Return an answer's value, or of a masked task the filled text, to set beside what is expected."""
    return answer.text if task.family is Family.MASKED else answer.value


def _mask_in(task: Task, row: Row, tokenizer: Tokenizer) -> bool:
    mask_of(tokenizer)
    segments = task.formatter.prompt(row, tokenizer.dialect)
    return any(tokenizer.special["mask_token"] in segment.text for segment in segments)


def with_mask(task: Task, record: Record, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a training record as one to be filled: a word in it becomes the mask token.

    It is the middle word of the first column that has several; failing that, the mask token is put
    into the middle of the first column.

    >>> from lmkit.registry import get_task
    >>> from lmkit.testing import toy_tokenizer
    >>> with_mask(get_task("mlm"), {"text": "one two three"}, toy_tokenizer())
    {'text': 'one <|mask|> three'}
    """
    mask_of(tokenizer)
    mask = tokenizer.special["mask_token"]
    columns = [name for name in task.prompt_columns if name in record] or task.prompt_columns[:1]
    texts = {name: column_text(record, name) for name in columns}
    column = next((name for name in columns if " " in texts[name].strip()), columns[0])
    text = texts[column]
    words = text.split(" ")
    if len(words) > 1:
        words[len(words) // 2] = mask
        text = " ".join(words)
    else:
        text = text[: len(text) // 2] + mask + text[len(text) // 2 :]
    changed = {**record, column: text}
    return Row(changed, record.where) if isinstance(record, Row) else changed
