"""Choose: every label of a record is scored behind its prompt, and the likeliest is the answer.

It stands between a decoder that chooses and a model that is open, a run or a bundle alike. A label's
tokens are those that training would have learned for it, split where training splits, so what is
scored is what was learned; nothing is written freely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from lmkit.decoding import Answer, Chooser, Usage
from lmkit.encoding import IGNORE, Encoded, Ids, prompt_ids, stretches
from lmkit.errors import PromptTooLong, TaskError, TokenizerError
from lmkit.family import Family
from lmkit.formatting import Record
from lmkit.records import where_of
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

if TYPE_CHECKING:
    from lmkit.answering import Answerer


@attrs.frozen(eq=False)
class Choice:
    """A record that is ready to be answered with one of its task's labels.

    Attributes:
        prompt: what the model is given, int64 [P].
        rows: one for each label, in order.
    """

    prompt: Ids
    rows: Sequence[Encoded]


def choose(
    model: Answerer,
    records: Sequence[Record],
    options: Mapping[str, Any],
    *,
    batch_size: int,
    most: int | None,
) -> list[Answer]:
    """Answer records with one of their task's labels each; the order is kept.

    Args:
        model: what scores them; its task's decoder is a `Chooser`.
        records: the task's prompt columns.
        options: what the caller said of generation; anything is refused.
        batch_size: how many records are scored at once, each with all of its labels.
        most: the most tokens that the model can hold, or None.
    Raises:
        TaskError: an option was given.
        TokenizerError: a label is no token, or the same tokens as another.
        PromptTooLong: a prompt with its longest label does not fit the model.
    """
    choices = prepared(model, records, options, most=most)
    return chosen(model, choices, batch_size=batch_size)


def prepared(
    model: Answerer, records: Sequence[Record], options: Mapping[str, Any], *, most: int | None
) -> list[Choice]:
    """Return what is to be scored for each record; arguments and errors are those of `choose`."""
    task = model.task
    if options:
        raise TaskError(
            f"task '{task.name}' scores its labels and writes nothing, so "
            f"{', '.join(sorted(options))} would change nothing; leave it out"
        )
    prompts = [model.prompt(record, index) for index, record in enumerate(records)]
    choices = [
        Choice(prompt, label_rows(task, record, prompt, model.tokenizer))
        for record, prompt in zip(records, prompts, strict=True)
    ]
    if task.family.shifts and most is not None:
        for index, choice in enumerate(choices):
            n_prompt = len(choice.prompt)
            longest = max(map(len, choice.rows)) - n_prompt
            if n_prompt + longest > most:
                where = where_of(records[index], index)
                raise PromptTooLong(n_prompt, most, answer_tokens=longest, where=where)
    return choices


def chosen(model: Answerer, choices: Sequence[Choice], *, batch_size: int) -> list[Answer]:
    """Answer what `prepared` has made ready; the order is kept."""
    answers: dict[int, Answer] = {}
    order = sorted(range(len(choices)), key=lambda index: len(choices[index].prompt))  # pads little
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        scores = iter(model.log_probs([row for index in part for row in choices[index].rows]))
        for index in part:
            choice = choices[index]
            own = [next(scores) for _ in choice.rows]
            answers[index] = _answer(model.task, choice.prompt, choice.rows, own)
    return [answers[index] for index in range(len(choices))]


def check_labels(task: Task, record: Record, tokenizer: Tokenizer) -> None:
    """Refuse labels that could not be scored, before any work; see `label_rows`.

    Args:
        task: any; one that chooses no labels is fine.
        record: the task's prompt columns.
        tokenizer: the model's.
    """
    if isinstance(task.decoder, Chooser):
        label_rows(task, record, prompt_ids(task, record, tokenizer), tokenizer)


def label_rows(task: Task, record: Record, prompt: Ids, tokenizer: Tokenizer) -> list[Encoded]:
    """Return one row a label, in order: the prompt, and the label's tokens as what is learned.

    The tokens are those of the training row of `{**record, answer column: label}`, without the one
    that ends the answer.

    Args:
        task: one whose decoder is a `Chooser`.
        record: the task's prompt columns.
        prompt: its ids, int64 [P].
        tokenizer: the model's.
    Raises:
        TokenizerError: a label is no token, or the same tokens as another.
    """
    assert isinstance(task.decoder, Chooser)
    read = _ROWS[task.family]
    rows: dict[bytes, str] = {}
    found: list[Encoded] = []
    for label in task.decoder.labels:
        row = read(task, {**record, task.answer_column: label}, prompt, tokenizer)
        if not row.n_learned or not tokenizer.encode(label, opens=False):
            raise TokenizerError(
                f"the label {label!r} of task '{task.name}' is not a single token in this "
                "tokenizer, so it cannot be scored; name it by words that the tokenizer knows"
            )
        key = row.input_ids.tobytes() + row.labels.tobytes()
        if key in rows:
            raise TokenizerError(
                f"the labels {rows[key]!r} and {label!r} of task '{task.name}' are the same tokens "
                "in this tokenizer, so they cannot be told apart; name them by words that it knows"
            )
        rows[key] = label
        found.append(row)
    return found


def _continued(task: Task, labelled: Record, prompt: Ids, tokenizer: Tokenizer) -> Encoded:
    """Return a causal row: the prompt, continued by what follows it in the training text."""
    dialect = tokenizer.dialect
    asked = stretches(task.formatter.prompt(labelled, dialect), tokenizer)
    whole = stretches(task.formatter.segments(labelled, dialect), tokenizer)
    start = sum(len(stretch.ids) for stretch in asked)
    ids = [token for stretch in whole for token in stretch.ids][start:]
    labels = [token if stretch.learn else IGNORE for stretch in whole for token in stretch.ids]
    labels = labels[start:][: _end(ids, tokenizer)]
    while labels and labels[-1] == IGNORE:  # text that the template writes behind the answer
        labels.pop()
    return Encoded(
        np.concatenate([prompt, np.asarray(ids[: len(labels)], dtype=np.int64)]),
        np.asarray([*[IGNORE] * len(prompt), *labels], dtype=np.int64),
    )


def _targeted(task: Task, labelled: Record, prompt: Ids, tokenizer: Tokenizer) -> Encoded:
    """Return a seq2seq row: the source, and the target as the collator writes it."""
    segments = task.formatter.segments(labelled, tokenizer.dialect)
    row = task.collator.encode(segments, tokenizer, delimited=task.formatter.delimited)
    target = row.labels[: _end(row.labels.tolist(), tokenizer)]
    return Encoded(prompt, target, family=Family.SEQ2SEQ)


_ROWS = {Family.CAUSAL: _continued, Family.SEQ2SEQ: _targeted}


def _end(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Return where an answer's end tokens begin, such as an EOS, or one and a line break."""
    end = len(ids)
    for place in reversed(range(len(ids))):
        if tokenizer.ends_turn(ids[place]):
            end = place
        elif tokenizer.is_control(ids[place]) or tokenizer.decode([ids[place]]).strip():
            break
    return end


def _answer(task: Task, prompt: Ids, rows: Sequence[Encoded], scores: Sequence[Any]) -> Answer:
    assert isinstance(task.decoder, Chooser)
    probabilities = task.decoder.choose(scores)
    label = max(probabilities, key=lambda name: probabilities[name])
    row = rows[list(probabilities).index(label)]
    written = row.input_ids[len(prompt) :] if task.family.shifts else row.labels
    return Answer(
        value=label,
        text=label,
        finish_reason="stop",
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(written)),
        token_ids=tuple(written.tolist()),
        probabilities=probabilities,
    )
