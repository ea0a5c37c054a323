"""OpenVINO GenAI's pipeline on the CPU.

The model is a folder that optimum-intel wrote: `optimum-cli export openvino --model MODEL
--weight-format int4 FOLDER` (or int8, fp32), tokenizers included. Its best settings here: the
latency hint, one stream, the precision of arithmetic that it chooses itself (bf16 where the CPU has
it), and the attention backend that it chooses; a label that ends in `-pa` or `-sdpa` forces one. When
each token came is its own measurement (`perf_metrics`), so that no streamer costs it time; of several
rows it tells the first token only, and the others are taken as evenly spaced until its answer is there.
"""

from __future__ import annotations

import os
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
        self._model, self._options = given["model"], options
        self._pipe = openvino_genai.LLMPipeline(given["model"], "CPU", **options)
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
        if len(ids) > 1:  # it counts a step of several rows as one row's share of it
            times = np.linspace(first, whole, work["new_tokens"]).tolist()
        if len(times) < work["new_tokens"] or not 0.9 * whole < times[-1] < 1.02 * whole:
            raise RuntimeError(
                f"it measured {len(times)} tokens in {times[-1]:.3f} s of {whole:.3f}"
            )
        return {"times": times, "ids": [list(map(int, row)) for row in found.tokens]}

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first.

        The pipeline tells none, so the graph that it runs is run, in the precision that it runs in.
        """
        options = {
            name: self._options[name] for name in self._options if name != "ATTENTION_BACKEND"
        }
        model = os.path.join(self._model, "openvino_model.xml")
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        names = {name for port in request.model_inputs for name in port.names}
        found = []
        for row in rows:
            request.reset_state()
            ids = np.array([row[:-1]], dtype=np.int64)
            given = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            request.infer({name: array for name, array in given.items() if name in names})
            logits = request.get_tensor("logits").data[0].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            whole = np.log(np.exp(logits).sum(axis=1))
            found.append((logits[np.arange(len(whole)), row[1:]] - whole).tolist())
        return found
