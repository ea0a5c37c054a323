"""llama.cpp through llama-cpp-python's bindings of its C functions.

The model is a `.gguf` file, in the precision that it was quantized to. Its best settings here: a
build with the CPU's own instructions (`CMAKE_ARGS=-DGGML_NATIVE=ON`), memory-mapped weights, prompts
read 512 tokens at once whatever rows they are of, flash attention where it chooses so, and a greedy
sampler in C: llama.cpp's own loop, without what `llama_cpp.Llama` adds to each token in Python.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import llama_cpp as lib
import numpy as np


class Side:
    """A `.gguf` file."""

    def __init__(self, given: dict[str, Any]) -> None:
        lib.llama_backend_init()
        self._silence = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._silence, ctypes.c_void_p(0))
        self._threads = given["threads"]
        path = given["model"].encode()
        self._model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load '{given['model']}'")
        self._sampler = lib.llama_sampler_init_greedy()
        self._context: Any = None
        self._room = (0, 0)
        self.library = f"llama-cpp-python {lib.__version__}"
        name = given.get("precision") or os.path.basename(given["model"])
        self.settings = f"{name}, {self._threads} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        prompts, n_tokens = work["prompts"], work["new_tokens"]
        length = max(map(len, prompts)) + n_tokens
        context = self._context_for(len(prompts), length)
        start = time.perf_counter()
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch = lib.llama_batch_init(max(512, len(prompts)), 0, 1)
        last = [0] * len(prompts)
        ids: list[list[int]] = [[] for _ in prompts]
        waiting = [
            (token, at, row)
            for row, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        for begin in range(0, len(waiting), 512):
            places = waiting[begin : begin + 512]
            ends = [i for i, (_, at, row) in enumerate(places) if at == len(prompts[row]) - 1]
            self._decode(context, batch, places, logits_at=set(ends))
            for end in ends:
                row = places[end][2]
                last[row] = lib.llama_sampler_sample(self._sampler, context, end)
                ids[row].append(last[row])
        times = [time.perf_counter() - start]
        everywhere = set(range(len(prompts)))
        for step in range(1, n_tokens):
            places = [
                (last[row], len(prompt) + step - 1, row) for row, prompt in enumerate(prompts)
            ]
            self._decode(context, batch, places, logits_at=everywhere)
            for row in range(len(prompts)):
                last[row] = lib.llama_sampler_sample(self._sampler, context, row)
                ids[row].append(last[row])
            times.append(time.perf_counter() - start)
        lib.llama_batch_free(batch)
        return {"times": times, "ids": ids}

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first."""
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        context = self._context_for(1, max(map(len, rows)))
        batch = lib.llama_batch_init(512, 0, 1)
        found = []
        for row in rows:
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            log_probs: list[float] = []
            for begin in range(0, len(row) - 1, 512):
                part = row[begin : min(begin + 512, len(row) - 1)]
                places = [(token, begin + at, 0) for at, token in enumerate(part)]
                self._decode(context, batch, places, logits_at=set(range(len(part))))
                for at in range(len(part)):
                    given = lib.llama_get_logits_ith(context, at)
                    logits = np.ctypeslib.as_array(given, (size,)).astype(np.float64)
                    most = logits.max()
                    whole = most + np.log(np.exp(logits - most).sum())
                    log_probs.append(float(logits[row[begin + at + 1]] - whole))
            found.append(log_probs)
        lib.llama_batch_free(batch)
        return found

    def _context_for(self, n_rows: int, length: int) -> Any:
        """Return a context with room for so many rows; the last one's if it has."""
        if self._context is None or n_rows > self._room[0] or length > self._room[1]:
            if self._context is not None:
                lib.llama_free(self._context)
            params = lib.llama_context_default_params()
            params.n_ctx = n_rows * (-(-length // 256) * 256)
            params.n_seq_max = n_rows
            params.n_batch = params.n_ubatch = 512
            params.n_threads = params.n_threads_batch = self._threads
            self._context = lib.llama_init_from_model(self._model, params)
            if not self._context:
                raise RuntimeError(f"llama.cpp has no room for {n_rows} rows of {length} tokens")
            self._room = (n_rows, length)
        return self._context

    def _decode(
        self, context: Any, batch: Any, places: list[tuple[int, int, int]], *, logits_at: set[int]
    ) -> None:
        """Run tokens, each with its position and row."""
        batch.n_tokens = len(places)
        for at, (token, position, row) in enumerate(places):
            batch.token[at] = token
            batch.pos[at] = position
            batch.seq_id[at][0] = row
            batch.n_seq_id[at] = 1
            batch.logits[at] = at in logits_at
        if code := lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gives {code}")
