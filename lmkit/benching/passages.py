"""Prompts of any length: prose that does not repeat itself, cut to so many tokens.

A text that repeats would flatter whoever takes drafts from the prompt, so it does only where that is
what is measured; and ids drawn at random are no text that a tokenizer would make. Each row of a batch
has the sentences in another order.
"""

from __future__ import annotations

import random
import re
from importlib import resources

from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer


def prompts(
    tokenizer: Tokenizer,
    length: int,
    n_rows: int = 1,
    *,
    family: Family = Family.CAUSAL,
    turn: int = 0,
    repeats: bool = False,
) -> list[list[int]]:
    """Return rows of exactly so many ids, the same for the same tokenizer.

    A causal prompt is cut anywhere; a source or masked text stands in the tokenizer's own frame, such
    as `[CLS]` and `[SEP]`, and a masked one has a mask in its middle. Of a tokenizer that can write no
    sentence, as one made for molecules, plain tokens are drawn at random with a fixed seed.

    Args:
        tokenizer: the model's.
        length: ids in each row; beyond the passage's own length its sentences come again, shuffled.
        n_rows: how many rows, each with another order of sentences.
        family: what the model is.
        turn: which round they are for; each has texts of its own, so that what one left behind, as
            kept keys and values of a prompt, is of no use to the next.
        repeats: whether the text comes again from its beginning, and is cut in the middle of that,
            as one does that is to be corrected or edited.
    Raises:
        TaskError: a row is too short for the frame.
    """
    framed = family is not Family.CAUSAL
    before = list(tokenizer.opening_ids)
    after = list(tokenizer.closing_ids) if framed else []
    inside = length - len(before) - len(after)
    if inside < 1:
        raise TaskError(f"{length} tokens have no room for a text; ask for more")
    rows = []
    for row in range(n_rows):
        # Nor is a prompt the beginning of a longer one.
        number = (turn * n_rows + row) * 1009 + length
        ids = _text(tokenizer, number, -(-2 * inside // 3) if repeats else inside)
        ids = (ids + ids)[:inside]
        if family is Family.MASKED and tokenizer.mask_id is not None:
            ids[inside // 2] = tokenizer.mask_id
        rows.append([*before, *ids, *after])
    return rows


def paragraphs(tokenizer: Tokenizer, most: int | None = None) -> list[list[int]]:
    """Return the passage's paragraphs as rows of ids, for whoever tells how likely each id is.

    Args:
        tokenizer: the model's.
        most: ids in a row; what is beyond is left out.
    Returns:
        One row a paragraph, without those that the tokenizer cannot write.
    """
    rows = []
    for paragraph in _passage().splitlines():
        if paragraph and not tokenizer.unknown_in(paragraph):
            row = [*tokenizer.opening_ids, *tokenizer.encode(paragraph)]
            rows.append([int(token) for token in row[:most]])
    return [row for row in rows if len(row) > 1]


def _passage() -> str:
    return resources.files("lmkit.benching").joinpath("passage.txt").read_text("utf-8")


def _text(tokenizer: Tokenizer, number: int, length: int) -> list[int]:
    sentences = re.split(r"(?<=[.?])\s+", _passage().strip())
    sentences = [sentence for sentence in sentences if not tokenizer.unknown_in(sentence)]
    chance = random.Random(number)
    if not sentences:
        return chance.choices(tokenizer.plain_ids, k=length)
    rounds, start = divmod(number, len(sentences))
    skipped = rounds % 8  # a row that begins with another's sentence begins later in it
    first = sentences.pop(start)
    ids: list[int] = []
    while len(ids) < length + skipped:
        chance.shuffle(sentences)
        ids += tokenizer.encode(" ".join([first, *sentences]), opens=not ids)
    return ids[skipped : skipped + length]
