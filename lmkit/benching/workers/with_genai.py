"""onnxruntime-genai: its own loop over a folder with `genai_config.json`.

The model is what its builder wrote (`python -m onnxruntime_genai.models.builder -i MODEL -o FOLDER -p
int4 -e cpu`), or a causal bundle of ours, which it loads unchanged. Its best settings here: past and
present share one buffer, as long as the request; greedy search; all threads on one session.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import Any

import numpy as np
import onnxruntime_genai


class Side:
    """A folder that onnxruntime-genai loads."""

    def __init__(self, given: dict[str, Any]) -> None:
        config = onnxruntime_genai.Config(given["model"])
        threads = {"intra_op_num_threads": given["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = onnxruntime_genai.Model(config)
        self.library = f"onnxruntime-genai {onnxruntime_genai.__version__}"
        with open(os.path.join(given["model"], "genai_config.json"), encoding="utf-8") as file:
            graph = json.load(file)["model"]["decoder"].get("filename", "model.onnx")
        name = os.path.join(os.path.basename(os.path.normpath(given["model"])), graph)
        self.settings = f"{given.get('precision') or name}, {given['threads']} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        prompts, n_tokens = work["prompts"], work["new_tokens"]
        length = len(prompts[0]) + n_tokens
        start = time.perf_counter()
        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(
            batch_size=len(prompts),
            do_sample=False,
            min_length=length,
            max_length=length,
            num_beams=1,
            past_present_share_buffer=True,
        )
        generator = onnxruntime_genai.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        times = []
        for _ in range(n_tokens):
            generator.generate_next_token()
            generator.get_next_tokens()
            times.append(time.perf_counter() - start)
        ids = [generator.get_sequence(row)[-n_tokens:].tolist() for row in range(len(prompts))]
        return {"times": times, "ids": ids}

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first, an id at a time.

        A graph may give the last position's logits only, and these are those of its decoding.
        """
        found = []
        for row in rows:
            params = onnxruntime_genai.GeneratorParams(self._model)
            params.set_search_options(max_length=len(row) + 1, past_present_share_buffer=True)
            generator = onnxruntime_genai.Generator(self._model, params)
            log_probs = []
            for given, expected in itertools.pairwise(row):
                generator.append_tokens(np.array([[given]], dtype=np.int32))
                logits = np.asarray(generator.get_logits(), dtype=np.float64).reshape(-1)
                most = logits.max()
                log_probs.append(logits[expected] - most - np.log(np.exp(logits - most).sum()))
            found.append([float(log_prob) for log_prob in log_probs])
        return found
