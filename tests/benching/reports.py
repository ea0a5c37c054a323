"""A report made by hand, with figures that a reader can check."""

from lmkit.benching.report import Report, Result, Spread, Work, figures_of
from lmkit.benching.sides import Skipped

SHORT = Work(prompt_tokens=16, new_tokens=3)
LONG = Work(prompt_tokens=512, new_tokens=3)


def result(title, step_s, *, ours=False, works=(SHORT, LONG), **changes):
    """Return a side whose tokens take so long, and whose rounds differ by a tenth."""
    runs = [[scale * (0.2 + step_s * at) for at in range(3)] for scale in (1.0, 0.9, 1.1)]
    given = {
        "title": title,
        "ours": ours,
        "library": f"{title} 1.0",
        "settings": "2 threads",
        "load_s": 0.5,
        "start_to_first_token_s": 0.7,
        "peak_bytes": 300_000_000,
        "weights_bytes_per_token": 100_000_000 if ours else None,
        "figures": {work: figures_of(work, runs) for work in works},
    }
    return Result(**given | changes)


def report(*results, **changes):
    given = {
        "bundle": "bundles/qa",
        "family": "causal",
        "date": "2026-11-21T12:00:00+00:00",
        "machine": {
            "processor": "A <fast> one",
            "cores": 2,
            "memory_bytes": 8_000_000_000,
            "system": "Linux x86_64",
            "python": "3.11.7",
        },
        "threads": 2,
        "rounds": 3,
        "read_limit": Spread(40e9, 38e9, 41e9),
        "works": [SHORT, LONG],
        "results": results or [result("lmkit", 0.01, ours=True), result("peer", 0.02)],
        "skipped": [Skipped("absent", "not installed; pip install absent")],
    }
    return Report(**given | changes)
