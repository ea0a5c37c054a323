"""Memory: the peak while rows are prepared and read once in random order, from few rows to many.

    python tests/benchmarks/memory.py DATA.jsonl TOKENIZER [--task alpaca] [--rows 10000 100000 1000000]

The data's rows are repeated, each with a number of its own, until there are as many as asked for.
Each size is prepared in a process of its own, which is watched from its first row on: what it holds
of its own (anonymous memory), less what it held once everything was imported and the tokenizer was
loaded. Mapped files are not counted: the system takes their pages back whenever it wants them, and
they are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("--task", default="alpaca")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.data, options.tokenizer, options.task, options.child)))
        return
    print(f"{'rows':>9} {'data':>9} {'prepare':>9} {'epoch':>9} {'peak':>9} {'mapped':>9}  ratio")
    first = None
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            repeat(options.data, path, count)
            child = [sys.executable, __file__, str(path), options.tokenizer, "--task", options.task]
            done = subprocess.run([*child, "--child", folder], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            size = path.stat().st_size / 1e6
        first = first or found["peak"]
        print(
            f"{count:9,} {size:6.0f} MB {found['prepare']:7.1f} s {found['epoch']:7.1f} s "
            f"{found['peak']:6.0f} MB {found['mapped']:6.0f} MB {found['peak'] / first:5.2f}x",
            flush=True,
        )


def repeat(data: Path, path: Path, count: int) -> None:
    """Write rows with numbers of their own."""
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            column = next(iter(row))
            numbered = {**row, column: f"{number}: {row[column]}"}
            file.write(json.dumps(numbered, ensure_ascii=False) + "\n")


def measured(data: Path, tokenizer_folder: str, task_name: str, folder: Path) -> dict[str, float]:
    """Prepare a file's rows, read them in random order and return what was held and how long it took."""
    import numpy as np

    import lmkit as lk
    from lmkit.encoding import encode_rows
    from lmkit.records import Row
    from lmkit.sources import Source
    from lmkit.tokenizing import Tokenizer
    from lmkit.train.extra import datasets
    from lmkit.train.preparing.caching import Preparation, prepare

    datasets()
    task, tokenizer = lk.get_task(task_name), Tokenizer.load(tokenizer_folder)
    source = Source.open(data)
    some = next(row for row in source.rows() if isinstance(row, Row))
    list(encode_rows(task, [some], tokenizer))
    before = held("RssAnon")
    peaks = {"RssAnon": before, "RssFile": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for name, peak in peaks.items():
                peaks[name] = max(peak, held(name))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    found = prepare(task, source, tokenizer, "2026-01-01", Preparation(cache=folder / "cache"))
    prepared = time.perf_counter()
    feed = task.collator.feed(found.rows, tokenizer)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(feed))
    for at in range(0, len(order), 32):
        rows = [feed.draw(int(index), rng) for index in order[at : at + 32]]
        task.collator.collate(rows, tokenizer.pad_id or 0)
    end = time.perf_counter()
    done.set()
    thread.join()
    return {
        "prepare": prepared - start,
        "epoch": end - prepared,
        "peak": peaks["RssAnon"] - before,
        "mapped": peaks["RssFile"],
    }


def held(name: str) -> float:
    """Return how many megabytes of a kind this process holds, as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError(f"the system does not tell {name}")


if __name__ == "__main__":
    main()
