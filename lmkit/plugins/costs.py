"""What loading a plugin costs everyone who has it installed: seconds, and the heavy packages it imports."""

from __future__ import annotations

import sys
import time

import attrs

# A second or more each, or hundreds of megabytes, that a plugin need not spend before it is used.
# fmt: off
HEAVY = frozenset((
    "accelerate", "datasets", "faiss", "gensim", "gguf", "jax", "keras", "lightning", "llama_cpp",
    "matplotlib", "nltk", "onnx", "onnxruntime", "onnxscript", "openvino", "optimum", "pandas", "peft",
    "polars", "pyarrow", "scipy", "sentence_transformers", "sklearn", "spacy", "tensorflow", "torch",
    "torchaudio", "torchvision", "transformers", "trl", "vllm",
))
# fmt: on
SLOW_S = 1.0  # four times what `lmkit --help` may take


@attrs.frozen
class Cost:
    """What loading took.

    Attributes:
        seconds: on the clock, imports and hooks together.
        heavy: heavy packages that were imported meanwhile, and not before.
    """

    seconds: float = 0.0
    heavy: tuple[str, ...] = ()

    @property
    def slow(self) -> bool:
        """Whether others would notice."""
        return bool(self.heavy) or self.seconds >= SLOW_S


class Meter:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._before = HEAVY & sys.modules.keys()
        self._start = time.perf_counter()

    def read(self) -> Cost:
        """Return the cost so far; what an earlier plugin imported is not this one's."""
        seconds = time.perf_counter() - self._start
        return Cost(seconds, tuple(sorted((HEAVY & sys.modules.keys()) - self._before)))
