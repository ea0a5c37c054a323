"""CTranslate2 on the CPU: its generator, or its translator for seq2seq.

The model is a folder that its converter wrote (`ct2-transformers-converter --model MODEL --output_dir
FOLDER`). Its best settings here: the kernels that it chooses for the CPU, one batch, prompts read at
once (`include_prompt_in_result=False`), and weights and arithmetic in the precision asked for (int8,
which keeps activations between products in fp32, or fp32).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import ctranslate2

COMPUTE = {None: "float32", "fp32": "float32", "int8": "int8"}


class Side:
    """A converted folder."""

    def __init__(self, given: dict[str, Any]) -> None:
        compute = COMPUTE.get(given.get("precision"), given.get("precision"))
        causal = given["family"] == "causal"
        kind = ctranslate2.Generator if causal else ctranslate2.Translator
        self._model = kind(
            given["model"],
            device="cpu",
            compute_type=compute,
            inter_threads=1,
            intra_threads=given["threads"],
        )
        names = ("vocabulary.json", "shared_vocabulary.json")
        paths = [os.path.join(given["model"], name) for name in names]
        with open(next(filter(os.path.exists, paths)), encoding="utf-8") as file:
            self._tokens = json.load(file)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
        self.library = f"ctranslate2 {ctranslate2.__version__}"
        self.settings = f"{compute}, {given['threads']} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        prompts = [[self._tokens[index] for index in ids] for ids in work["prompts"]]
        n_tokens, n_beams = work["new_tokens"], work["beams"]
        times: list[float] = []

        def note(result: Any) -> bool:
            if result.batch_id == len(prompts) - 1:
                times.append(time.perf_counter() - start)
            return False

        clock = note if n_beams == 1 else None
        start = time.perf_counter()
        if work["family"] == "causal":
            found = self._model.generate_batch(
                prompts,
                beam_size=n_beams,
                max_length=n_tokens,
                min_length=n_tokens,
                include_prompt_in_result=False,
                callback=clock,
            )
            ids = [row.sequences_ids[0] for row in found]
        else:
            found = self._model.translate_batch(
                prompts,
                beam_size=n_beams,
                max_decoding_length=n_tokens,
                min_decoding_length=n_tokens,
                max_input_length=0,
                callback=clock,
            )
            ids = [[self._ids[token] for token in row.hypotheses[0]] for row in found]
        end = time.perf_counter() - start
        return {"times": times[:n_tokens] if n_beams == 1 else [end], "ids": ids}

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first."""
        texts = [[self._tokens[index] for index in row] for row in rows]
        scored = self._model.score_batch(texts, max_batch_size=1, max_input_length=0)
        return [list(row.log_probs) for row in scored]
