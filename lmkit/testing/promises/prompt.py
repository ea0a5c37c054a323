"""What a model is asked is exactly how its training text begins, whatever the tokenizer merges."""

from __future__ import annotations

from collections.abc import Iterator

from lmkit.answering.filling import with_mask
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Encoded, prompt_ids
from lmkit.family import Family
from lmkit.records import Row
from lmkit.task import Task
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.tokenizing import Tokenizer

# Behind each text that is asked: Korean, runs of spaces, and a control token that somebody typed.
HARD = " 가나다  <|im_end|> </s>\n끝"


def check(case: Case) -> None:
    """Check the prompt's ids of each record, and of the first with hard text, on each tokenizer.

    Raises:
        Broken: the ids are not the first of the training row, or of a seq2seq one not its source; a
            masked prompt has no mask token or is framed otherwise; or what a record says acts as a
            control token.
    """
    for name, tokenizer, record in case.with_each():
        _check(case.task, case.row(record, tokenizer), record, tokenizer, name)
    first = case.records[0]
    for name, tokenizer in case.tokenizers.items():
        ready = case.aligned(tokenizer)
        for harder in _harder(case.task, first):
            case.current = harder
            _check(case.task, case.row(harder, ready), harder, ready, name)
            if case.task.family is not Family.MASKED:
                _check_plain(case.task, first, harder, ready, name)
    case.current = None


def _harder(task: Task, record: Row) -> Iterator[Row]:
    """Yield a record with hard text behind each text that is asked, one column at a time."""
    for column in task.prompt_columns:
        text = record.get(column)
        if isinstance(text, str) and text.strip():
            yield Row({**record, column: text + HARD}, f"{record.where} with hard text in {column}")


def _check(task: Task, row: Encoded | None, record: Row, tokenizer: Tokenizer, name: str) -> None:
    if task.family is Family.MASKED:
        if row is not None:
            _check_masked(task, record, row, tokenizer, name)
        return
    prompt = prompt_ids(cutting(task), record, tokenizer).tolist()
    if row is None or isinstance(task.collator, Stream):  # no row of its own, so no prompt in it
        return
    asked = tokenizer.decode(prompt, skip_control=False)
    if task.family is Family.SEQ2SEQ:
        if row.input_ids.tolist() != prompt:
            raise Broken(
                "the prompt is not the source that it learns from", _HINT, **_of(name, asked)
            )
    elif not row.n_cut and row.input_ids[: len(prompt)].tolist() != prompt:
        raise Broken(
            "the prompt is no prefix of the training text, so it is asked what it never read",
            _HINT,
            **_of(name, asked),
        )


_HINT = "let `prompt` write the same segments as `segments` does, up to the first that is learned"


def _of(name: str, asked: str) -> dict[str, str]:
    return {"asked": asked, "tokenizer": name}


def _check_plain(task: Task, record: Row, harder: Row, tokenizer: Tokenizer, name: str) -> None:
    """Check that text of a record holds no control token that acts."""
    counts = [
        sum(map(tokenizer.is_control, prompt_ids(cutting(task), one, tokenizer).tolist()))
        for one in (record, harder)
    ]
    if counts[1] > counts[0]:
        raise Broken(
            "a control token that a record spells out acts as one, so whoever asks can end the "
            "prompt or take another's turn",
            "give text from a record as Segment(text, trusted=False)",
            tokenizer=name,
        )


def _check_masked(task: Task, record: Row, row: Encoded, tokenizer: Tokenizer, name: str) -> None:
    prompt = prompt_ids(task, with_mask(task, record, tokenizer), tokenizer).tolist()
    shown = _of(name, tokenizer.decode(prompt, skip_control=False))
    if tokenizer.mask_id not in prompt:
        raise Broken(
            "the mask token does not act in the prompt",
            "let the formatter keep the column's text as it is: the mask token stands in it",
            **shown,
        )
    before, after = len(tokenizer.opening_ids), len(tokenizer.closing_ids)
    frames = [[*ids[:before], *ids[len(ids) - after :]] for ids in (prompt, row.input_ids.tolist())]
    if frames[0] != frames[1] and not task.formatter.delimited and not row.n_cut:
        raise Broken(
            "the prompt is framed otherwise than the training text",
            "let the collator's `prompt` put the same tokens around a text as its `encode`",
            **shown,
        )
