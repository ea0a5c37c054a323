"""The full comparison: every precision, every family, every peer with its own best settings.

    python tests/benchmarks/compare.py install --folder F
    python tests/benchmarks/compare.py prepare --folder F --model MODEL --tokenizers T
    python tests/benchmarks/compare.py export --folder F --model MODEL [--bundles lmkit]
    python tests/benchmarks/compare.py run --folder F --model MODEL --gguf FILE [--parts int4,masked]
    python tests/benchmarks/compare.py write --folder F --docs docs

or the same behind `tox -e bench --`. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import starting
from document import write
from parts import PARTS, START, START_ROUND_S
from peers import HOMES, OURS, export, install, prepare

from lmkit.benching import bench
from lmkit.benching.machine import machine
from lmkit.benching.report import Report
from lmkit.benching.tables import markdown
from lmkit.errors import LmkitError, TaskError
from lmkit.files import write_atomically
from lmkit.runtime.bundle import open_bundle
from lmkit.runtime.cores import available_cores
from lmkit.saving.manifest import Manifest

TIMEOUT_S = 180.0  # of one piece of work: a peer that hangs must not cost the evening
STARTS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("act", choices=["install", "prepare", "export", "run", "write"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lmkit-bench")
    parser.add_argument("--model", type=Path, help="the causal model's folder")
    parser.add_argument("--gguf", type=Path, help="the same model as .gguf, for llama.cpp")
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--parts", default=",".join([*PARTS, START]))
    parser.add_argument("--bundles", default=",".join(OURS), help="which to export anew")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--again", action="store_true", help="measure also what is measured")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    if options.act == "install":
        install(options.folder)
    elif options.act == "prepare":
        prepare(options.folder, options.model, options.tokenizers)
    elif options.act == "export":
        names = options.bundles.split(",")
        made = [export(options.folder, options.model, name, anew=True) for name in names]
        return 0 if all(made) else 1
    elif options.act == "run":
        return run(options)
    else:
        write(options.folder / "results", options.docs)
        print(f"wrote {options.docs / 'benchmarks.md'}", file=sys.stderr)
    return 0


def run(options: argparse.Namespace) -> int:
    """Measure parts, one after another; what one has found is kept whatever becomes of the next."""
    results = options.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = [name.strip() for name in options.parts.split(",")]
    if unknown := [name for name in names if name not in (*PARTS, START)]:
        print(
            f"no part named {unknown[0]}; there are {', '.join([*PARTS, START])}", file=sys.stderr
        )
        return 2
    ready = {name: export(options.folder, options.model, name) for name in _bundles(names)}
    failed = {name: "there is no bundle" for name in names if not ready[_bundle(name)]}
    stamps = {name: stamp(name, options) for name in names if name not in failed}
    left = []
    for name, own in stamps.items():
        if not options.again and (when := _measured(results / f"{name}.json", own)):
            print(f"{name}: kept from {when}; --again measures it anew", file=sys.stderr)
        else:
            left.append(name)
    seconds = {name: _seconds(name, options) for name in left}
    each = ", ".join(f"{name} {clock(seconds[name])}" for name in left)
    print(f"about {clock(sum(seconds.values()))} on two idle cores: {each}", file=sys.stderr)
    measured_s = expected_s = 0.0
    for at, name in enumerate(left):
        slower = measured_s / expected_s if expected_s else 1.0
        rest = slower * sum(seconds[other] for other in left[at:])
        print(f"[{at + 1}/{len(left)}] {name}; about {clock(rest)} left", file=sys.stderr)
        begun = time.perf_counter()
        try:
            found = _start(options) if name == START else _bench(name, options)
        except Exception as error:  # whatever it is, the other parts go on
            failed[name] = str(error) if isinstance(error, LmkitError) else repr(error)
            print(f"\n{name} fails: {failed[name]}", file=sys.stderr)
            continue
        took = time.perf_counter() - begun
        measured_s, expected_s = measured_s + took, expected_s + seconds[name]
        document = {**found, "stamp": stamps[name], "took_s": took}
        write_atomically(results / f"{name}.json", json.dumps(document, indent=1))
        print(f"\n{name} took {clock(took)}\n", file=sys.stderr)
        if name != START:
            print(f"## {PARTS[name].title}\n\n{markdown(Report.of_document(found))}", flush=True)
    for name, reason in failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _bench(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one part beside its peers; return the report as JSON data."""
    part = PARTS[name]
    against = []
    for peer in part.against:
        title, _, where = peer.partition("=")
        against.append(f"{title}={_place(where, options)}")
    given = dict(part.options)
    if options.new_tokens and "new_tokens" in given:
        given["new_tokens"] = [options.new_tokens]
    report = bench(
        options.folder / "models" / part.bundle,
        against=against,
        peer_pythons=_pythons(options.folder),
        rounds=options.rounds,
        threads=options.threads,
        timeout_s=TIMEOUT_S,
        on_progress=_Progress(name),
        **given,
    )
    data = report.document()
    manifest = _manifest(options.folder, part.bundle)
    for result in data["results"]:
        if result["ours"] and options.model and part.bundle == "lmkit":
            precision = result["title"].split()[1]
            size = manifest.precisions[precision].size_bytes
            result["size_share"] = size / fp32_bytes(options.model)
    return data


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """Measure cold starts; return them as JSON data."""
    if options.model is None:
        raise TaskError("peers are started with the model's chat template; give --model")
    from transformers import AutoTokenizer

    question = [{"role": "user", "content": starting.QUESTION}]
    prompt = AutoTokenizer.from_pretrained(options.model).apply_chat_template(
        question, tokenize=False, add_generation_prompt=True
    )
    with tempfile.TemporaryDirectory() as kept:
        found = starting.measure(
            starting.sides(
                options.folder / "models" / "lmkit",
                prompt,
                threads=options.threads,
                pythons=_pythons(options.folder),
                place=lambda where: _place(where, options),
            ),
            rounds=max(STARTS, options.rounds) if options.rounds > 1 else 1,
            threads=options.threads,
            kept=Path(kept),
            on_progress=_Progress(START),
        )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**found, "date": now, "machine": machine(), "threads": options.threads}


def stamp(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a part's result depends on: another stamp, and it is measured anew."""
    manifest = _manifest(options.folder, _bundle(name))
    return {
        "bundle": manifest.created,
        "rounds": options.rounds,
        "new_tokens": options.new_tokens,
        "threads": options.threads,
    }


def _measured(file: Path, own: Mapping[str, Any]) -> str | None:
    """Return when a result was measured, if it is there and has the same stamp."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(data["date"]) if data.get("stamp") == own else None


def _seconds(name: str, options: argparse.Namespace) -> float:
    if name == START:
        return START_ROUND_S * (1 + max(STARTS, options.rounds))
    return PARTS[name].seconds(options.rounds)


def fp32_bytes(model: Path) -> int:
    """Return what the weights of a model's folder take in fp32, each tensor that is stored once.

    Source: https://github.com/huggingface/safetensors#format
    """
    count = 0
    for file in model.glob("*.safetensors"):
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
        for name, tensor in header.items():
            if name != "__metadata__":
                numbers = 1
                for axis in tensor["shape"]:
                    numbers *= axis
                count += numbers
    return 4 * count


def _bundle(name: str) -> str:
    return "lmkit" if name == START else PARTS[name].bundle


def _bundles(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(_bundle, names)))


def _manifest(folder: Path, bundle: str) -> Manifest:
    return open_bundle(folder / "models" / bundle, checksums=False).manifest


def _place(where: str, options: argparse.Namespace) -> str:
    """Return where a peer's model lies; one that was not given is a path that is not there."""
    given = {"MODEL": options.model, "GGUF": options.gguf}
    return str(given.get(where) or options.folder / "models" / where)


def _pythons(folder: Path) -> dict[str, str]:
    return {peer: str(folder / home / "bin" / "python") for peer, home in HOMES.items()}


class _Progress:
    """A line that says how far a part is, and for how long it has run."""

    def __init__(self, name: str) -> None:
        self._name, self._begun = name, time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        passed = time.perf_counter() - self._begun
        line = f"{self._name} {done}/{total} {clock(passed)} {what}"
        if sys.stderr.isatty():
            print(f"\r{line:<100}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main())
