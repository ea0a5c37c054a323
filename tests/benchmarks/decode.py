"""Decode speed: a bundle against transformers' generate(), in turn, in one process.

    python tests/benchmarks/decode.py RUN_OR_MODEL BUNDLE [--tokens 64] [--rounds 5]

RUN_OR_MODEL is what the bundle was exported from: a run, a model's folder or a `.gguf` file. Each
round times one and then the other (A B A B ...); medians and their ratio are printed. Both write the
same number of tokens greedily behind the same prompt, with as many threads as the process has cores.
"""

from __future__ import annotations

import argparse
import statistics
import time

import lmkit as lk
from lmkit.runtime.session import available_cores
from lmkit.train.answering import TorchAnswerer
from lmkit.train.models import align, load_model


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
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.rounds + 1):  # the first turn warms up
        for name, side in sides.items():
            start = time.perf_counter()
            answer = side(
                record,
                temperature=0,
                min_new_tokens=options.tokens,
                max_new_tokens=options.tokens,
            )
            assert answer.usage.completion_tokens == options.tokens
            if turn:
                times[name].append(time.perf_counter() - start)
    print(f"{options.tokens} tokens, {options.rounds} rounds, {available_cores()} cores")
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        rates = ", ".join(f"{options.tokens / t:.1f}" for t in sorted(found))
        print(f"{name:<12} {options.tokens / medians[name]:7.1f} tok/s   (each round: {rates})")
    print(f"ratio        {medians['generate()'] / medians['bundle']:7.2f} x")


if __name__ == "__main__":
    main()
