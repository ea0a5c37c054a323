"""The three ways a model reads a record; every stage holds one table keyed by them."""

from __future__ import annotations

from enum import StrEnum


class Family(StrEnum):
    """What a collator makes of segments, and so which graph a bundle needs."""

    CAUSAL = "causal"  # one text; each token predicts the next
    MASKED = "masked"  # one text; hidden tokens are predicted in place
    SEQ2SEQ = "seq2seq"  # a source and a target text

    @property
    def shifts(self) -> bool:
        """Whether the logits at a position are for the label of the next one.

        A causal head shifts labels itself; a seq2seq model shifts its decoder's input instead.
        """
        return self is Family.CAUSAL
