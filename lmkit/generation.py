"""placeholder until the real one lands"""
from __future__ import annotations
from typing import Any
import attrs
from lmkit.values import value
def stop_strings(x: Any) -> tuple[str, ...]:
    return (x,) if isinstance(x, str) else tuple(x)
@value
class Generation:
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = attrs.field(default=(), converter=stop_strings)
    def override(self, **o: Any) -> Generation:
        return attrs.evolve(self, **o)
