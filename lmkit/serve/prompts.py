"""Show a prompt: the text that a model is given for a record, and its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmkit.answering.streaming import IncrementalText
from lmkit.encoding import Ids, joined, owners, stretches
from lmkit.formatting import Segment
from lmkit.serve.models import Served
from lmkit.serve.spoken import spoken
from lmkit.tokenizing import Tokenizer


def shown_prompt(served: Served, record: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt as `POST /v1/tasks/{name}/prompt` tells it; nothing is run.

    Raises:
        RecordError: as for a call of the model.
        PromptTooLong: as for a call of the model.
    """
    tokenizer = served.tokenizer
    ids = served.model.prompt(record)
    pieces = spoken(served.task.formatter, record, tokenizer.dialect)
    trusted = _trusted(ids, pieces, tokenizer)
    return {
        "task": served.name,
        "text": tokenizer.decode(ids.tolist(), skip_control=False),
        "tokens": [
            {
                "id": token,
                "text": text,
                "trusted": bool(own),
                "control": tokenizer.is_control(token),
            }
            for token, text, own in zip(
                ids.tolist(), _texts(ids, tokenizer), trusted.tolist(), strict=True
            )
        ],
    }


def _trusted(
    ids: Ids, pieces: list[tuple[Segment, bool]], tokenizer: Tokenizer
) -> NDArray[np.bool_]:
    """Return whether each id is of trusted text, bool [P].

    What a collator puts around a text (a BOS, an EOS) is. Of a text that was cut, or in which masks
    were put, ids are matched from the front as far as they go, and then from the end; of those between,
    the control tokens alone are trusted.
    """
    segments = [segment for segment, _ in pieces]
    written = np.array(joined(stretches(segments, tokenizer)), dtype=np.int64)
    if not len(written):
        return np.ones(len(ids), dtype=np.bool_)
    by = np.array([not said for _, said in pieces])
    own = np.concatenate(owners(segments, tokenizer))
    flags = by[np.minimum(own, len(by) - 1)]
    found = np.array([tokenizer.is_control(token) for token in ids.tolist()], dtype=np.bool_)
    opening = len(tokenizer.opening_ids)
    start = opening if tuple(ids[:opening].tolist()) == tokenizer.opening_ids else 0
    front = _alike(ids[start:], written)
    found[:start] = True
    found[start : start + front] = flags[:front]
    if front < len(written):
        closing = len(tokenizer.closing_ids)
        end = len(ids) - (closing if tuple(ids[-closing:].tolist()) == tokenizer.closing_ids else 0)
        back = _alike(ids[start + front : end][::-1], written[::-1])
        found[end - back : end] = flags[len(flags) - back :]
    return found


def _alike(some: Ids, others: Ids) -> int:
    """Return how many ids two texts have in common from their beginning."""
    length = min(len(some), len(others))
    unlike = np.flatnonzero(some[:length] != others[:length])
    return int(unlike[0]) if len(unlike) else length


def _texts(ids: Ids, tokenizer: Tokenizer) -> list[str]:
    """Return what each id adds to the text; joined, they are the whole text."""
    text = IncrementalText(lambda some: tokenizer.decode(some, skip_control=False))
    pieces = [text.push(token) for token in ids.tolist()]
    if pieces:
        pieces[-1] += text.finish()
    return pieces
