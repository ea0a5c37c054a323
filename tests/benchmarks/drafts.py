"""What drafts cost where nothing repeats, and save where something does: default beside plain loop.

    python tests/benchmarks/drafts.py BUNDLE --data RECORDS.jsonl [--precision int4] [--records 12]
        [--tokens 64] [--rounds 5] [--threads 1]

Each record is answered by both loops in turn, greedily and by as many tokens; the order changes with
every round. Prints for each the share of its pairs of tokens that had stood before, and the default
loop's CPU and wall time beside the plain one's (medians of the rounds' ratios), and at last those of
all records of which few pairs had. The ids have to be the same. CPU time of one thread is what a busy
machine can tell.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np

from lmkit.benching.loops import open_side, written
from lmkit.records import read
from lmkit.runtime.generator import Generator

FEW = 0.1  # of the pairs of an answer that stood in its prompt or before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--records", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    side = open_side(options.bundle, precision=options.precision, threads=options.threads)
    assert isinstance(side, Generator), "a bundle of fills has no drafts"
    records = read(options.data)
    prompts = [side.prompt(record) for record in records[: options.records]]
    written(side, prompts[:1], options.tokens, 1)
    ratios: dict[str, list[float]] = {"CPU": [], "wall": []}
    n_few = 0
    for place, prompt in enumerate(prompts):
        found, ids = in_turn(side, prompt, options.tokens, options.rounds)
        share = repeated(prompt.tolist(), ids)
        print(
            f"{place:3} {len(prompt):5} tokens read, {share:4.0%} of pairs stood before: "
            + ", ".join(f"{clock} {statistics.median(own):.3f}" for clock, own in found.items())
        )
        if share <= FEW:
            n_few += 1
            for clock, own in found.items():
                ratios[clock] += own
    if n_few:
        told = ", ".join(f"{clock} {statistics.median(own):.3f}" for clock, own in ratios.items())
        print(f"{n_few} records of which at most {FEW:.0%} had: {told}")


def in_turn(
    side: Generator, prompt: np.ndarray, n_tokens: int, rounds: int
) -> tuple[dict[str, list[float]], list[int]]:
    """Return the default loop's times over the plain one's, a round each, and the ids of both."""
    found: dict[str, list[float]] = {"CPU": [], "wall": []}
    ids: list[int] = []
    for turn in range(rounds):
        spent = {}
        for drafts in (True, False) if turn % 2 else (False, True):
            began = time.process_time(), time.perf_counter()
            _, rows = written(side, [prompt], n_tokens, 1, drafts=drafts)
            spent[drafts] = time.process_time() - began[0], time.perf_counter() - began[1]
            if ids and rows[0] != ids:
                raise SystemExit("the loops write different tokens")
            ids = rows[0]
        for at, own in enumerate(found.values()):
            own.append(spent[True][at] / spent[False][at])
    return found, ids


def repeated(prompt: list[int], ids: list[int]) -> float:
    """Return the share of an answer's pairs of tokens that stood in the prompt or before."""
    text = [*prompt, *ids]
    pairs = list(itertools.pairwise(text))
    new = range(len(prompt) - 1, len(pairs))
    return sum(pairs[place] in pairs[:place] for place in new) / len(new)


if __name__ == "__main__":
    main()
