"""Models of each family that learn ten rows in seconds."""

from __future__ import annotations

from typing import Any

from lmkit.family import Family
from lmkit.scratch import Scratch, scratch

_TINY: dict[Family, tuple[str, dict[str, Any]]] = {
    Family.CAUSAL: (
        "llama",
        {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
        },
    ),
    Family.SEQ2SEQ: (
        "t5",
        {
            "num_layers": 2,
            "d_model": 64,
            "d_ff": 128,
            "d_kv": 16,
            "num_heads": 4,
            "dropout_rate": 0.0,
        },
    ),
    Family.MASKED: (
        "bert",
        {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    ),
}


def tiny_model(family: Family | str, **config: Any) -> Scratch:
    """Return a model for `train` that is small enough to learn ten rows by heart in seconds.

    Args:
        family: causal (a Llama), seq2seq (a T5) or masked (a BERT).
        config: values of its configuration that are to be others.

    >>> tiny_model("causal", num_hidden_layers=1).model_type
    'llama'
    """
    model_type, usual = _TINY[Family(family)]
    return scratch(model_type, **{**usual, **config})
