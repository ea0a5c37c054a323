"""optimum's ONNX Runtime models: `generate()` over a graph that optimum-onnx exported.

The model is a folder that `optimum-cli export onnx --model MODEL FOLDER` wrote. Its best settings
here: one graph with past, its inputs and outputs bound (`use_io_binding`) and all graph optimizations.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Any

import onnxruntime
import torch
from optimum import onnxruntime as optimum

# `generate()` is transformers' own, and so is its clock: they are in the file beside this one.
_spec = importlib.util.spec_from_file_location(
    "with_transformers", os.path.join(os.path.dirname(__file__), "with_transformers.py")
)
assert _spec is not None
assert _spec.loader is not None
_generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_generate)

MODELS = {
    "causal": "ORTModelForCausalLM",
    "seq2seq": "ORTModelForSeq2SeqLM",
    "masked": "ORTModelForMaskedLM",
}


class Side:
    """An exported folder."""

    def __init__(self, given: dict[str, Any]) -> None:
        torch.set_num_threads(given["threads"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given["threads"]
        options.log_severity_level = 3
        kind = getattr(optimum, MODELS[given["family"]])
        bound = {} if given["family"] == "masked" else {"use_io_binding": True}
        self._model = kind.from_pretrained(given["model"], session_options=options, **bound)
        self.library = (
            f"optimum-onnx {importlib.metadata.version('optimum-onnx')}, "
            f"onnxruntime {onnxruntime.__version__}"
        )
        self.settings = f"{given.get('precision') or 'fp32'}, {given['threads']} threads"

    def run(self, work: dict[str, Any]) -> dict[str, Any]:
        """Do a piece of work; tell when each step was done, and the ids."""
        found: dict[str, Any] = _generate.run(self._model, work)
        return found

    def score(self, rows: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of each id of each row behind its first."""
        found: list[list[float]] = _generate.score(self._model, rows)
        return found
