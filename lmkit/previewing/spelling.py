"""Spell: what each token of a row adds to its text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from lmkit.answering.streaming import IncrementalText
from lmkit.encoding import IGNORE, Whole
from lmkit.previewing import Token
from lmkit.tokenizing import Tokenizer


def spelled(whole: Whole, tokenizer: Tokenizer) -> tuple[Token, ...]:
    """Return a row's tokens, with what each adds to the row's text.

    A character of several tokens stands whole in the first of them; where one kind of tokens ends
    and another begins, nothing is carried over.
    """
    ids = whole.input_ids.tolist()
    kinds = _kinds(whole)
    marks = [(kind, tokenizer.is_control(token)) for kind, token in zip(kinds, ids, strict=True)]
    tokens: list[Token] = []
    context: list[int] = []
    position = 0
    for (kind, control), run in groupby(marks):
        part = ids[position : position + len(list(run))]
        position += len(part)
        texts = [tokenizer.id_to_token(token) for token in part]
        if control:
            context = []
        else:
            texts, context = _texts(part, context, tokenizer), context + part
        tokens += [
            Token(id=token, text=text, kind=kind, control=control)
            for token, text in zip(part, texts, strict=True)
        ]
    return tuple(tokens)


def _kinds(whole: Whole) -> list[str]:
    learned: NDArray[np.bool_] = whole.labels != IGNORE
    kinds = np.where(whole.kept, np.where(learned, "learned", "read"), "cut")
    found: list[str] = kinds.tolist()
    return found


def _texts(ids: Sequence[int], context: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Return what each id adds to the text behind a context."""
    text = IncrementalText(tokenizer.decode, context_ids=context)
    texts = [""] * len(ids)
    waiting: list[int] = []
    for place, token in enumerate(ids):
        if tokenizer.decode([token]):
            waiting.append(place)
        if piece := text.push(token):
            texts[waiting[0] if waiting else place] += piece
            waiting = []
    if rest := text.finish():
        texts[waiting[0] if waiting else -1] += rest
    return texts
