"""Learn a few records by heart with a tiny model, through `lmkit.train` itself."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.answering import Answerer, open_answerer
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Encoded, encode, prompt_ids
from lmkit.errors import TaskError, TokenizerError
from lmkit.family import Family
from lmkit.generation import Generation
from lmkit.records import Row
from lmkit.renaming import messages_column
from lmkit.task import Task
from lmkit.testing.broken import Broken, DoesNotApply
from lmkit.testing.case import Case
from lmkit.testing.models import tiny_model
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import train_tokenizer

ROWS = 10
LONGEST = 384  # tokens of a row, and of a target: longer ones take a tiny model too long
LARGE = 16_000  # tokens; a larger vocabulary takes a tiny model too long
_SIZES = {
    Family.CAUSAL: ("bpe", 600),
    Family.SEQ2SEQ: ("bpe", 600),
    Family.MASKED: ("wordpiece", 2000),
}
_RATES = {Family.CAUSAL: 3e-3, Family.SEQ2SEQ: 1e-2, Family.MASKED: 3e-3}
STEPS = {Family.CAUSAL: (120, 400), Family.SEQ2SEQ: (150, 500), Family.MASKED: (250, 750)}


@attrs.frozen(kw_only=True, eq=False)
class Pupil:
    """A tiny model and what it is to learn.

    Attributes:
        task: the task, greedy, with room for the longest of the answers.
        rows: the records.
        tokenizer: one that was learned from them, or the caller's.
    """

    task: Task
    rows: tuple[Row, ...]
    tokenizer: Tokenizer


@attrs.frozen(kw_only=True, eq=False)
class Learned:
    """A tiny model after its lessons.

    Attributes:
        pupil: what it learned.
        path: the run's folder.
        model: it, open through torch.
        steps: how many steps it took.
    """

    pupil: Pupil
    path: Any
    model: Answerer
    steps: int


def pupil_of(case: Case) -> Pupil:
    """Return up to ten records that a tiny model can tell apart, and the tokenizer to do it with.

    Raises:
        Broken: two records are asked alike that ask, and answer, something else.
        DoesNotApply: no record is short enough, or the task's loss needs another tokenizer.
    """
    task = case.task
    tokenizer = case.aligned(_tokenizer(case))
    _check_loss(task, tokenizer)
    rows: dict[tuple[int, ...], Row] = {}
    longest = 1
    for record in case.each():
        if len(rows) == ROWS:
            break
        encoded = encode(task, [record], tokenizer)
        too_long = max(len(row.input_ids) for row in encoded) > LONGEST
        if too_long and not isinstance(task.collator, Stream):
            continue
        longest = max(longest, *(len(row.labels) for row in encoded))
        key = _key(task, record, tokenizer, encoded)
        if key in rows:
            _check_asked_alike(task, rows[key], record, tokenizer)
        rows.setdefault(key, record)
    if not rows:
        raise DoesNotApply(f"no record has at most {LONGEST} tokens; give it some shorter ones")
    greedy = Generation(
        max_new_tokens=min(longest + 8, LONGEST), temperature=0.0, stop=task.generation.stop
    )
    return Pupil(
        task=task.evolve(generation=greedy), rows=tuple(rows.values()), tokenizer=tokenizer
    )


def _check_loss(task: Task, tokenizer: Tokenizer) -> None:
    if task.loss is None:
        return
    try:
        task.loss.prepare(tokenizer)
    except TaskError as error:
        raise DoesNotApply(
            f"its loss does not fit the small tokenizer ({error}); give check_task one that it fits"
        ) from error


def _key(task: Task, record: Row, tokenizer: Tokenizer, encoded: Sequence[Encoded]) -> Any:
    """Return what tells a record from the others: nobody can answer one question in two ways."""
    if task.family is Family.MASKED or isinstance(task.collator, Stream):
        return tuple(encoded[-1].input_ids.tolist())
    return tuple(prompt_ids(cutting(task), record, tokenizer).tolist())


def _check_asked_alike(task: Task, one: Row, other: Row, tokenizer: Tokenizer) -> None:
    """Refuse a prompt that does not show what tells two records apart.

    Records that ask the same and are answered in two ways are the data's business.
    """
    if not task.writes or isinstance(task.collator, Stream) or messages_column(task.formatter):
        return
    asked = [
        [str(row.get(name, "")).split() for name in task.prompt_columns] for row in (one, other)
    ]
    answers = [task.reference(row, tokenizer.dialect) for row in (one, other)]
    if asked[0] != asked[1] and answers[0] != answers[1]:
        raise Broken(
            f"it is asked the same of {one.where} and of {other.where}, which it answers differently",
            "let the prompt show every column that the answer depends on",
            asked=tokenizer.decode(prompt_ids(task, one, tokenizer).tolist(), skip_control=False),
        )


def _tokenizer(case: Case) -> Tokenizer:
    if case.given:
        [own] = case.tokenizers.values()
        if own.vocab_size <= LARGE:
            return own
    kind, size = _SIZES[case.task.family]
    rows = case.records[: 4 * ROWS]
    try:
        return train_tokenizer(kind=kind, data=rows, vocab_size=size, task=case.task)
    except TokenizerError:  # texts in which nothing can be merged
        return next(iter(case.tokenizers.values()))


def taught(case: Case, pupil: Pupil, steps: int) -> Learned:
    """Return a tiny model that has seen every record in each of so many steps.

    Nothing is printed, and what is drawn at random elsewhere is drawn as if this had not been.
    """
    from lmkit.train.run import train

    family = pupil.task.family
    path = case.folder / f"run-{steps}"
    with unnoticed():
        run = train(
            pupil.task,
            model=tiny_model(family),
            tokenizer=pupil.tokenizer,
            data=list(pupil.rows),
            output=path,
            cache=False,
            ignore_findings=True,
            max_steps=steps,
            learning_rate=_RATES[family],
            warmup_steps=steps // 10,
            per_device_train_batch_size=len(pupil.rows),
            save_strategy="no",
            logging_steps=steps,
            report_to="none",
            use_cpu=True,
        )
        model = open_answerer(run.path)
    return Learned(pupil=pupil, path=run.path, model=model, steps=steps)


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Print nothing, warn of nothing, and leave random states as they were."""
    import torch

    drawn, drawn_np = random.getstate(), np.random.get_state()
    silent = contextlib.ExitStack()
    with silent, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        silent.enter_context(contextlib.redirect_stdout(io.StringIO()))
        silent.enter_context(contextlib.redirect_stderr(io.StringIO()))
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(drawn)
            np.random.set_state(drawn_np)
