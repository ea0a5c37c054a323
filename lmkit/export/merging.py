"""What becomes of an adapter at export: a LoRA goes into the weights, a soft prompt before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmkit.encoding import Ids
from lmkit.errors import ParityError
from lmkit.export.parity import tolerated
from lmkit.family import Family
from lmkit.train.adapting import is_soft_prompt, merged
from lmkit.train.extra import torch
from lmkit.train.lengths import context_length
from lmkit.train.quiet import quiet
from lmkit.train.wrapped import base_of, is_adapted, virtual_tokens


def settled(model: Any, prompts: Sequence[Ids], family: Family) -> tuple[Any, dict[str, Any]]:
    """Return the model as it will be exported, and what became of its adapter.

    Args:
        model: a transformers model, or one of peft's, which a merge uses up.
        prompts: prompts, each int64 [P], on which a merge must change nothing.
        family: how the model reads them.
    Returns:
        The model, still one of peft's if its adapter is a soft prompt; and the account for the
        manifest, empty where there was no adapter.
    Raises:
        ParityError: the merged weights give other logits than the adapter beside them did.
    """
    if not is_adapted(model):
        return model, {}
    if is_soft_prompt(model):
        return model, {"kind": "prompt_tuning", "virtual_tokens": virtual_tokens(model)}
    most = context_length(model)
    some = [prompt if most is None else prompt[-most:] for prompt in prompts]
    before = [_logits(model, prompt, family) for prompt in some]
    whole = merged(model)
    difference = 0.0
    for prompt, expected in zip(some, before, strict=True):
        apart = float(np.abs(_logits(whole, prompt, family) - expected).max())
        tolerance = tolerated(expected)
        if not apart <= tolerance:  # a NaN is no agreement either
            raise ParityError(
                f"merging the adapter into the weights changes a logit by {apart:.2e}, where "
                f"rounding explains {tolerance:.2e}; no bundle was written"
            )
        difference = max(difference, apart)
    return whole, {"kind": "lora", "merge_max_logit_difference": difference}


def _logits(model: Any, prompt: Ids, family: Family) -> np.ndarray:
    """Return a model's logits for one prompt, float32 [T, V]; of a seq2seq one its first token's."""
    inputs = {"input_ids": torch().from_numpy(prompt)[None]}
    if family is Family.SEQ2SEQ:
        start = base_of(model).config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch().tensor([[start]])
    model.eval()
    with torch().inference_mode(), quiet():
        found = model(**inputs).logits[0]
    return np.asarray(found.float().cpu().numpy())
