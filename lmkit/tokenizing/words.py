"""Find words in ids: which tokens stand together with no white space between them.

Nothing here knows a kind of tokenizer by name: what its decoder would write between two tokens says
whether they are one word. So `##` (WordPiece), `▁` (SentencePiece), `Ġ` (byte-level BPE) and `</w>`
(BPE with word ends) mean what they say. A Korean word is an eojeol, its particles included; what
WordPiece cuts off itself, such as punctuation, is a word of its own.

Source: whole word masking in google-research/bert, create_pretraining_data.py, and
`is_beginning_of_word` of fairseq's encoders for byte-level BPE and SentencePiece.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lmkit.tokenizing.tokenizer_json import backend

if TYPE_CHECKING:
    from lmkit.encoding import Ids
    from lmkit.tokenizing import Tokenizer


class Words:
    """Knows where words start.

    Args:
        tokenizer: whose ids they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        data = json.loads(tokenizer.definition)
        decoder, suffix = data.get("decoder"), data["model"].get("end_of_word_suffix")
        if decoder is not None and "cleanup" in decoder:
            data["decoder"] = {**decoder, "cleanup": False}  # it glues punctuation to words
        whole = backend(data)
        ids = sorted(whole.get_vocab(with_added_tokens=True).values())
        anchor = _anchor(tokenizer, suffix)
        before = len(whole.decode([anchor], skip_special_tokens=False))
        pairs = whole.decode_batch([[anchor, token] for token in ids], skip_special_tokens=False)
        texts = [pair[before:] for pair in pairs]
        self._opens = np.zeros(ids[-1] + 1, dtype=np.bool_)
        self._opens[ids] = [text[:1].isspace() for text in texts]
        self._closes = np.zeros_like(self._opens)
        self._closes[ids] = [text[-1:].isspace() and not text.isspace() for text in texts]
        if suffix:
            self._closes[ids] |= [tokenizer.id_to_token(token).endswith(suffix) for token in ids]

    def number(
        self, ids: Ids, within: NDArray[np.bool_], starts: Sequence[int] | Ids = (0,)
    ) -> Ids:
        """Return which word each token belongs to.

        Args:
            ids: int64 [T].
            within: bool [T], the tokens that are part of a word; the M others part words.
            starts: where texts start, of which there may be several one behind the other.
        Returns:
            int64 [T - M], from 0, for the tokens that are within one.
        """
        opens = self._opens[ids]
        opens[1:] |= self._closes[ids[:-1]] | ~within[:-1]
        opens[np.asarray(starts)] = True
        return np.cumsum(opens[within]) - 1


def _anchor(tokenizer: Tokenizer, suffix: str | None) -> int:
    """Return a token that begins a word, behind which another one can be decoded."""
    found = [] if tokenizer.unknown_in("a") else tokenizer.encode("a", opens=False)
    if suffix or not found:
        ends = suffix or "\0"
        plain = tokenizer.plain_ids
        return next((t for t in plain if not tokenizer.id_to_token(t).endswith(ends)), plain[0])
    return found[-1]
