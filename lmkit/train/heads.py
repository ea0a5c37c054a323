"""Heads: which of transformers' classes a family's models are."""

from __future__ import annotations

from typing import Any

from lmkit.family import Family
from lmkit.train.extra import transformers

PAIR = "encoder-decoder"  # transformers' name for two models of their own, one reading the other

_HEADS = {
    Family.CAUSAL: "AutoModelForCausalLM",
    Family.MASKED: "AutoModelForMaskedLM",
    Family.SEQ2SEQ: "AutoModelForSeq2SeqLM",
}


def head(family: Family) -> Any:
    """Return transformers' class that finds a family's models."""
    return getattr(transformers(), _HEADS[family])
