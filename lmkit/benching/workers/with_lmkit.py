"""Ours: a bundle through lmkit's runtime, as `lmkit generate` runs it.

The whole loop is timed, sampling and decoding to text included. Drafts are taken from the prompt only
where they are what is measured: else every token costs a step, as it does the others.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnxruntime

import lmkit
from lmkit.benching.loops import open_side, written
from lmkit.encoding import Encoded
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller


class Side:
    """A bundle in one precision."""

    def __init__(self, given: dict[str, Any]) -> None:
        threads = given["threads"]
        self._model = open_side(given["model"], precision=given.get("precision"), threads=threads)
        self._drafts = bool(given.get("drafts"))
        self.library = f"lmkit {lmkit.__version__}, onnxruntime {onnxruntime.__version__}"
        self.settings = f"{given['precision']}, {threads} threads"
        if given["family"] != "masked":
            self.settings += ", drafts from the prompt" if self._drafts else ", no drafts"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        prompts = [np.array(ids, dtype=np.int64) for ids in work["prompts"]]
        start = time.perf_counter()
        if isinstance(self._model, MaskFiller):
            fills = self._model.best(prompts)
            return {"times": [time.perf_counter() - start], "ids": fills}
        times, ids = written(
            self._model, prompts, work["new_tokens"], work["beams"], drafts=self._drafts
        )
        return {"times": [when - start for when in times], "ids": ids}

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first."""
        assert isinstance(self._model, Generator)
        ids = [np.array(row, dtype=np.int64) for row in rows]
        found = self._model.log_probs([Encoded(input_ids=row, labels=row) for row in ids])
        return [row.tolist() for row in found]
