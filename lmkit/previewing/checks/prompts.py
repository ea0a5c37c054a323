"""What a trained model will be asked: the training rows must begin with just that."""

from __future__ import annotations

import numpy as np

from lmkit.encoding import Ids
from lmkit.family import Family
from lmkit.formatting import training_texts
from lmkit.previewing.checks import Check, Seen, Setting, Tally, always

_AROUND = 4  # tokens on each side of where a prompt and a row part


def prompt_not_a_prefix(setting: Setting) -> Check | None:
    """Return the check for rows that begin otherwise than their record's prompt.

    The prompt is made anew of the record, as at inference, and compared with the row before it is cut;
    of a seq2seq row with its source.
    """
    if setting.streams or setting.task.family is Family.MASKED:
        return None

    def differs(seen: Seen) -> bool:
        if isinstance(seen.prompt, np.ndarray):
            return _parting(seen.prompt, _uncut(seen), seen) is not None
        return seen.prompt is not None

    def excerpt(seen: Seen) -> str:
        if not isinstance(seen.prompt, np.ndarray):
            return str(seen.prompt)
        ids = _uncut(seen)
        at = _parting(seen.prompt, ids, seen) or 0
        here = slice(max(0, at - _AROUND), at + _AROUND)
        asked, trained = (
            setting.tokenizer.decode(part[here].tolist(), skip_control=False)
            for part in (seen.prompt, ids)
        )
        return f"token {at}: asked {asked!r}, trained {trained!r}"

    return Tally(
        name="prompt-not-a-prefix",
        level=always("error"),
        text="the prompt at inference is not what the row begins with, so the model is asked otherwise "
        "than it learned",
        remedy="let the formatter's segments() begin with what prompt() returns, and put a seam "
        "between what is read and what is learned",
        applies=differs,
        excerpt=excerpt,
        of_records=True,
        stride=setting.stride,
    )


def _uncut(seen: Seen) -> Ids:
    """Return a row's ids before it was cut, int64 [N]; of a seq2seq row its source's as it is."""
    row, task = seen.row, seen.setting.task
    if not row.n_cut or row.family is Family.SEQ2SEQ:
        return row.input_ids
    tokenizer = seen.setting.tokenizer
    segments = training_texts(task.formatter, seen.record, tokenizer.dialect)[-1]
    wholes = task.collator.whole(segments, tokenizer, delimited=task.formatter.delimited)
    return wholes[0].input_ids


def _parting(prompt: Ids, ids: Ids, seen: Seen) -> int | None:
    """Return the first place where a prompt and a row part, or None if the row begins with it."""
    both = max(len(prompt), len(ids)) if seen.row.family is Family.SEQ2SEQ else len(prompt)
    common = min(len(prompt), len(ids))
    unlike = np.flatnonzero(prompt[:common] != ids[:common])
    if len(unlike):
        return int(unlike[0])
    return common if common < both else None


def prompt_too_long(setting: Setting) -> Check | None:
    """Return the check for prompts that fill a row, or more."""
    if setting.streams or setting.task.family is not Family.CAUSAL:
        return None
    most = setting.task.collator.max_length
    return Tally(
        name="prompt-too-long",
        level=always("warning"),
        text=f"the prompt alone has {most} tokens or more, of which a row loses some and an answer at "
        "inference none",
        remedy=f"{setting.longer}, or shorten the records",
        applies=lambda seen: _length(seen) >= most,
        excerpt=lambda seen: f"{_length(seen):,} tokens",
        of_records=True,
        stride=setting.stride,
    )


def _length(seen: Seen) -> int:
    return len(seen.prompt) if isinstance(seen.prompt, np.ndarray) else 0
