"""OpenVINO GenAI's pipeline on the CPU.

The model is a folder that optimum-intel wrote: `optimum-cli export openvino --model MODEL
--weight-format int4 FOLDER` (or int8, fp32), tokenizers included. Its best settings here: the
latency hint, one stream, the precision of arithmetic that it chooses itself (bf16 where the CPU has
it), and the attention backend that it chooses; a label that ends in `-pa` or `-sdpa` forces one. When
each token came is its own measurement (`perf_metrics`), so that no streamer costs it time.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino
import openvino_genai


class Side:
    """A converted folder."""

    def __init__(self, given: dict[str, Any]) -> None:
        threads = given["threads"]
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        precision = given.get("precision") or "as converted"
        backend = precision.rpartition("-")[2].upper()
        if backend in ("PA", "SDPA"):
            options["ATTENTION_BACKEND"] = backend
        self._pipe = openvino_genai.LLMPipeline(given["model"], "CPU", options)
        self.library = f"openvino-genai {openvino_genai.__version__}"
        self.settings = f"{precision}, {threads} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        ids = np.array(work["prompts"], dtype=np.int64)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = work["new_tokens"]
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        given = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))
        )
        start = time.perf_counter()
        found = self._pipe.generate(given, config)
        whole = time.perf_counter() - start
        raw = found.perf_metrics.raw_metrics
        first = raw.m_times_to_first_token[0] * 1e-6
        steps = np.cumsum(np.array(raw.m_durations) * 1e-6)
        times = [first, *(first + steps).tolist()][: work["new_tokens"]]
        if len(times) < work["new_tokens"] or times[-1] > whole * 1.02:
            raise RuntimeError(
                f"it measured {len(times)} tokens in {times[-1]:.3f} s of {whole:.3f}"
            )
        return {"times": times, "ids": [list(map(int, row)) for row in found.tokens]}
