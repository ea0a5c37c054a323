"""Load: our server beside others, from one client to sixty-four.

    python tests/benchmarks/load.py start --folder F --bundle B --model MODEL --gguf FILE
    python tests/benchmarks/load.py run --folder F --chats EN.jsonl KO.jsonl [--clients 1,4] [--rounds 1]
    python tests/benchmarks/load.py soak --folder F --chats EN.jsonl KO.jsonl --servers int4
    python tests/benchmarks/load.py stop --folder F
    python tests/benchmarks/load.py write --folder F

See README.md beside this file. `start` starts all servers, which wait without costing anything; `run` puts
each under load in turn (A B C A B C ...) from a client process of its own, over loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from load_document import row, write
from load_servers import SERVERS, Running, body, rss_bytes, start, stop

from lmkit.benching.machine import machine
from lmkit.runtime.cores import available_cores

CLIENT = Path(__file__).with_name("load_client.py")
SOAK_PARTS = 12  # of a soak, behind each of which the memory is read
MOST_CHARACTERS = 1200  # of a conversation


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("act", choices=["start", "run", "soak", "stop", "write"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lmkit-bench")
    parser.add_argument("--bundle", help="ours, of a chat task")
    parser.add_argument("--model", help="the same model's folder")
    parser.add_argument("--gguf", help="the same model as .gguf")
    parser.add_argument("--servers", help="which, with commas; all by default")
    parser.add_argument("--chats", type=Path, nargs="+", default=[], help="JSONL with messages")
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a run, the ramp included")
    parser.add_argument("--ramp", type=float, default=2.0, help="seconds in which clients join")
    parser.add_argument(
        "--seed", type=int, help="of what is asked; every round its own if not given"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=3600, help="of a soak")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(arguments)
    acts = {"start": start_all, "run": run, "soak": soak, "stop": stop_all}
    if options.act == "write":
        write(options.folder / "load", options.docs)
        return 0
    return acts[options.act](options)


def start_all(options: argparse.Namespace) -> int:
    """Start the servers that are not running."""
    given = {"python": sys.executable, **{k: str(v) for k, v in vars(options).items()}}
    running = _running(options)
    for name in _named(options, SERVERS):
        if name in running:
            continue
        if (process := SERVERS[name].process) is not None:
            if process in running:
                running[name] = attrs.evolve(running[process], name=name)
                _keep(options, running)
            continue
        begun = time.perf_counter()
        try:
            running[name] = start(name, given, _results(options))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            continue
        seconds = time.perf_counter() - begun
        print(f"{name}: {running[name].url}, answers behind {seconds:.1f} s", file=sys.stderr)
        _keep(options, running)
    return 0 if set(_named(options, SERVERS)) <= set(running) else 1


def stop_all(options: argparse.Namespace) -> int:
    """Stop the servers."""
    running = _running(options)
    for name in _named(options, running):
        stop(running.pop(name))
    _keep(options, running)
    return 0


def run(options: argparse.Namespace) -> int:
    """Measure every running server at every number of clients, in turn; keep every run."""
    running = _running(options)
    for n_clients in map(int, options.clients.split(",")):
        for _ in range(options.rounds):
            # No round asks again what a server may still know.
            seed = options.seed or time.time_ns()
            for name in _named(options, running):
                found = measure(running[name], options, n_clients=n_clients, seed=seed)
                print(" | ".join(row([found])), flush=True)
                with (_results(options) / "runs.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    return 0


def measure(
    running: Running,
    options: argparse.Namespace,
    *,
    n_clients: int,
    seed: int,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """Put a server under load from another process; return the figures and what they are of.

    Args:
        running: the server.
        options: those of the command.
        n_clients: how many ask at a time.
        seed: of what they ask.
        more: arguments of the client.
    """
    asked = bodies(options.chats, seed=seed, max_tokens=options.max_tokens)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump([body(running.name, one) for one in asked], file)
        file.flush()
        words = ["--url", running.url, "--clients", str(n_clients), "--bodies", file.name]
        words += ["--seconds", str(options.seconds), "--tokenizer", running.tokenizer]
        words += ["--ramp", str(options.ramp)]
        done = subprocess.run(
            [sys.executable, str(CLIENT), *words, *more], check=True, capture_output=True, text=True
        )
    return {
        "server": running.name,
        "versions": running.versions,
        "clients": n_clients,
        "rss_bytes": rss_bytes(running),
        **json.loads(done.stdout),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "seconds": options.seconds,
        "ramp_s": options.ramp,
        "max_tokens": options.max_tokens,
        "machine": machine(),
        "threads": options.threads,
    }


def bodies(chats: Sequence[Path], *, seed: int, max_tokens: int) -> list[dict[str, Any]]:
    """Draw conversations, as many of each file in turn, each up to a turn of the user's.

    Args:
        chats: JSONL files with a column `messages`.
        seed: of the draw.
        max_tokens: of each answer.
    """
    rng = random.Random(seed)
    drawn = []
    for file in chats:
        with file.open(encoding="utf-8") as lines:
            rows = [list(_question(json.loads(line)["messages"])) for line in lines]
        drawn.append(rng.sample([row for row in rows if row], k=min(1000, len(rows) // 2)))
    asked = [row for rows in zip(*drawn, strict=False) for row in rows]
    return [{"messages": messages, "max_tokens": max_tokens} for messages in asked]


def _question(messages: Sequence[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Yield a conversation's turns up to the last of the user's that leaves it short enough."""
    characters, ends = 0, 0
    for at, message in enumerate(messages):
        characters += len(message["content"])
        if characters > MOST_CHARACTERS:
            break
        if message["role"] == "user":
            ends = at + 1
    for message in messages[:ends]:
        yield {"role": message["role"], "content": message["content"]}


def soak(options: argparse.Namespace) -> int:
    """Ask an hour's worth of short requests as fast as they are answered; print the memory.

    Every tenth client hangs up as soon as its answer begins.
    """
    (name,) = _named(options, _running(options))
    running = _running(options)[name]
    left, part = options.requests, max(1, options.requests // SOAK_PARTS)
    while left > 0:
        more = ["--most", str(min(left, part)), "--leaves", "10"]
        n_clients, seed = int(options.clients.split(",")[0]), time.time_ns()
        found = measure(running, options, n_clients=n_clients, seed=seed, more=more)
        left -= found["requests"]
        memory = f"{found['rss_bytes'] / 1e6:.0f} MB"
        print(f"{options.requests - left} requests, {memory}, errors {found['errors']}", flush=True)
        with (_results(options) / "soak.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    return 0


def _named(options: argparse.Namespace, known: Mapping[str, Any]) -> list[str]:
    return options.servers.split(",") if options.servers else list(known)


def _results(options: argparse.Namespace) -> Path:
    folder: Path = options.folder / "load"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _running(options: argparse.Namespace) -> dict[str, Running]:
    """Return the servers that were started and still run."""
    with contextlib.suppress(FileNotFoundError):
        kept = json.loads((_results(options) / "running.json").read_text("utf-8"))
        found = [Running(**one) for one in kept]
        return {one.name: one for one in found if rss_bytes(one)}
    return {}


def _keep(options: argparse.Namespace, running: Mapping[str, Running]) -> None:
    text = json.dumps([attrs.asdict(one) for one in running.values()])
    (_results(options) / "running.json").write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
