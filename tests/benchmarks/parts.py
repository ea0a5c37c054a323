"""The parts of the full comparison: what is measured beside whom, and about how long that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmkit.benching.measuring import LEARNING


@attrs.frozen(kw_only=True)
class Part:
    """One table of the comparison.

    Attributes:
        title: its heading.
        bundle: which of the bundles.
        against: the peers; a model's folder is named within `models`.
        options: for `lmkit.benching.bench`.
        loading_s: about how long it takes on two idle cores until all sides are loaded.
        round_s: and how long a round then takes, with as many new tokens as `options` says.
    """

    title: str
    bundle: str
    against: Sequence[str]
    options: Mapping[str, Any]
    loading_s: float
    round_s: float

    def seconds(self, rounds: int) -> float:
        """Return about how long it takes with so many rounds and those that warm up."""
        warming = LEARNING if self.options.get("repeats") else 1
        return self.loading_s + (rounds + warming) * self.round_s


BOTH = {"prompt_tokens": [16, 512], "new_tokens": [64], "quality": True}
T5 = {"prompt_tokens": [64], "new_tokens": [64]}
PARTS = {
    "int4": Part(
        title="Causal, int4",
        bundle="lmkit",
        against=[
            *("genai:int4=genai-int4", "llama.cpp:q4_1=GGUF", "openvino:int4=openvino-int4"),
            *("openvino:int4-all=openvino-int4-all", "transformers:fp32=MODEL"),
        ],
        options={"precisions": ["int4"], **BOTH},
        loading_s=40,
        round_s=17,
    ),
    "fp32": Part(
        title="Causal, fp32",
        bundle="lmkit",
        against=[
            *("transformers:fp32=MODEL", "optimum:fp32=optimum-fp32", "genai:fp32=genai-fp32"),
            *("ctranslate2:fp32=ct2", "openvino:fp32=openvino-fp32"),
        ],
        options={"precisions": ["fp32"], **BOTH},
        loading_s=60,
        round_s=28,
    ),
    "int8": Part(
        title="Causal, int8",
        bundle="lmkit",
        against=["genai:int8=genai-int8", "ctranslate2:int8=ct2", "openvino:int8=openvino-int8"],
        options={"precisions": ["int8"], **BOTH},
        loading_s=30,
        round_s=10,
    ),
    "repeats": Part(
        title="Causal, text that repeats: drafts from the prompt",
        bundle="lmkit",
        against=[],
        options={"repeats": True, "prompt_tokens": [384], "new_tokens": [64]},
        loading_s=8,
        round_s=6,
    ),
    "seq2seq": Part(
        title="Seq2seq (T5-small), greedy",
        bundle="lmkit-t5",
        against=["transformers:fp32=t5", "optimum:fp32=optimum-t5", "ctranslate2:fp32=ct2-t5"],
        options=T5,
        loading_s=25,
        round_s=4,
    ),
    "beams": Part(
        title="Seq2seq (T5-small), 4 beams",
        bundle="lmkit-t5",
        against=["transformers:fp32=t5", "optimum:fp32=optimum-t5", "ctranslate2:fp32=ct2-t5"],
        options={"beams": 4, **T5},
        loading_s=25,
        round_s=7,
    ),
    "masked": Part(
        title="Masked (DistilBERT), 16 texts at once",
        bundle="lmkit-distilbert",
        against=["transformers:fp32=distilbert", "optimum:fp32=optimum-distilbert"],
        options={"prompt_tokens": [128], "batch_sizes": [16]},
        loading_s=20,
        round_s=6,
    ),
    "batch": Part(
        title="Causal, several rows at once",
        bundle="lmkit",
        against=["genai:int4=genai-int4", "llama.cpp:q4_1=GGUF", "openvino:int4=openvino-int4"],
        options={
            "precisions": ["int4", "int8", "fp32"],
            "prompt_tokens": [16],
            "new_tokens": [32],
            "batch_sizes": [1, 4, 16, 64],
        },
        loading_s=20,
        round_s=60,
    ),
}
START = "start"  # a part that is no `bench`: see `starting.py`
START_TITLE = "From process start to the first token, int4"
START_ROUND_S = 8.0
