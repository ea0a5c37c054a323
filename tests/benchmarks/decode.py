"""Decode speed: a bundle against transformers' generate(), in turn, in one process.

    python tests/benchmarks/decode.py RUN_OR_MODEL BUNDLE [--tokens 64] [--rounds 5]

RUN_OR_MODEL is what the bundle was exported from: a run, a model's folder or a `.gguf` file. Each
round times one and then the other (A B A B ...); medians and their ratio are printed. Both write the
same number of tokens greedily behind the same prompt, with as many threads as the process has cores.
A token's time is that of an answer of many tokens less that of an answer of one, so that reading the
prompt does not count. The memory's read limit is measured beside it: a decode step reads every weight.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import lmkit as lk
from lmkit.runtime.cores import available_cores
from lmkit.train.answering import TorchAnswerer
from lmkit.train.models import load_model
from lmkit.train.special import align


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("bundle")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ask = lk.load(options.bundle, verify=False)
    loaded = load_model(options.model, family=ask.task.family)
    tokenizer, _ = align(loaded.model, loaded.tokenizer, ask.task.formatter)
    torch_side = TorchAnswerer(task=ask.task, model=loaded.model, tokenizer=tokenizer)
    sides = {"generate()": torch_side, "bundle": ask}
    record = ask.manifest.golden[0].record
    n_weights = ask.manifest.model["parameters"]
    rates: dict[str, list[float]] = {name: [] for name in sides}
    limits = []
    for turn in range(options.rounds + 1):  # the first turn warms up
        limit = read_limit_bytes_per_s() / (4 * n_weights)
        for name, side in sides.items():
            rate = options.tokens / (
                seconds(side, record, options.tokens + 1) - seconds(side, record, 1)
            )
            if turn:
                rates[name].append(rate)
        if turn:
            limits.append(limit)
    print(f"{options.tokens} tokens, {options.rounds} rounds, {available_cores()} cores")
    for name, found in {**rates, "read limit": limits}.items():
        each = ", ".join(f"{rate:.1f}" for rate in found)
        print(f"{name:<12} {statistics.median(found):7.1f} tok/s   (each round: {each})")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"ratio        {medians['bundle'] / medians['generate()']:7.2f} x")
    print(f"of the limit {medians['bundle'] / statistics.median(limits):7.0%}")


def seconds(side: Any, record: Any, n_tokens: int) -> float:
    """Return how long one answer of exactly so many tokens takes."""
    start = time.perf_counter()
    answer = side(record, temperature=0, min_new_tokens=n_tokens, max_new_tokens=n_tokens)
    assert answer.usage.completion_tokens == n_tokens
    return time.perf_counter() - start


def read_limit_bytes_per_s() -> float:
    """Return how fast all cores together read memory: torch's sum over half a gigabyte."""
    import torch

    numbers = torch.ones(1 << 27)
    numbers.sum()
    start = time.perf_counter()
    for _ in range(3):
        numbers.sum()
    return 3 * 4 * len(numbers) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
