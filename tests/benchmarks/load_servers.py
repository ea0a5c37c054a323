"""The servers that are measured beside each other: how each is started, and what is asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

READY_S = 60.0


@attrs.frozen(kw_only=True)
class Server:
    """A server and its best settings for the machine at hand.

    Attributes:
        title: what the tables call it.
        command: starts it; {port}, {threads} and the names of the inputs are filled in.
        environment: variables beside those at hand; {threads} is filled in.
        packages: distributions whose versions are told, in the environment of the command.
        body: fields of a request that only this server needs.
        note: what the settings are for, and what it cannot do.
        process: whose process this is, where one is asked in several ways.
    """

    title: str
    command: Sequence[str]
    packages: Sequence[str]
    environment: Mapping[str, str] = attrs.field(factory=dict)
    body: Mapping[str, Any] = attrs.field(factory=dict)
    note: str = ""
    process: str | None = None


USAGE = {"stream_options": {"include_usage": True}}
OURS = ["{python}", "-m", "lmkit", "serve", "{bundle}", "--port", "{port}"]
OURS += ["--threads", "{threads}", "--no-verify"]
LLAMA = ["{folder}/llamacpp/bin/python", "-m", "llama_cpp.server", "--model", "{gguf}"]
LLAMA += ["--port", "{port}", "--n_threads", "{threads}", "--n_threads_batch", "{threads}"]
LLAMA += ["--interrupt_requests", "false", "--logits_all", "false", "--verbose", "false"]
TRANSFORMERS = ["{folder}/serving/bin/python", "-m", "transformers.cli.transformers", "serve"]
TRANSFORMERS += ["{model}", "--port", "{port}", "--device", "cpu", "--dtype", "bfloat16"]
PAGES = ["--continuous-batching", "--cb-num-blocks", "1024", "--cb-block-size", "32"]
PAGES += ["--cb-max-batch-tokens", "512"]
TORCH = {"OMP_NUM_THREADS": "{threads}", "PYTHONPATH": ""}
SERVERS: dict[str, Server] = {
    **{
        precision: Server(
            title=f"lmkit {precision}",
            command=[*OURS, "--precision", precision],
            packages=("onnxruntime", "uvicorn"),
            body={"model": "chat", **USAGE},
        )
        for precision in ("int4", "int8", "fp32")
    },
    **{
        f"{precision}-plain": Server(
            title=f"lmkit {precision}, no drafts",
            command=[*OURS, "--precision", precision],
            packages=("onnxruntime", "uvicorn"),
            body={"model": "chat", **USAGE, "prompt_lookup_num_tokens": 0},
            note="What one client alone gets without guessing: `prompt_lookup_num_tokens` is 0.",
            process=precision,
        )
        for precision in ("int4", "int8", "fp32")
    },
    "llama.cpp": Server(
        title="llama-cpp-python Q4_1",
        command=LLAMA,
        packages=("llama-cpp-python",),
        body={"repeat_penalty": 1.0},
        note="Takes one request at a time, the others queue (`interrupt_requests false`; its default "
        "breaks a running stream off as soon as another request comes). Logits of the last position "
        "only, and no penalty on repetition, which it has by default and the others do not. It reports "
        "no usage in a stream, so its tokens are counted by pieces.",
    ),
    "transformers": Server(
        title="transformers serve",
        command=TRANSFORMERS,
        packages=("transformers", "torch"),
        environment=TORCH,
        note="Takes one request at a time, the others queue. In bfloat16, which is faster here than float32.",
    ),
    "transformers-cb": Server(
        title="transformers serve, continuous batching",
        command=[*TRANSFORMERS, *PAGES],
        packages=("transformers", "torch"),
        environment=TORCH,
        note="1024 pages of 32 tokens for keys and values, at most 512 tokens in a step: by default it "
        "takes most of the machine's memory for its pages, and half a minute for its first answer.",
    ),
}


@attrs.frozen(kw_only=True)
class Running:
    """A server that was started: its process group's leader, where it listens, what it is of."""

    name: str
    pid: int
    url: str
    versions: str
    tokenizer: str


def start(name: str, given: Mapping[str, str], logs: Path) -> Running:
    """Start a server and wait until it answers.

    Args:
        name: of `SERVERS`.
        given: what its command names: python, folder, bundle, gguf, model, threads.
        logs: the folder for what it prints.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, words = SERVERS[name], {**given, "port": str(port)}
    added = {key: text.format_map(words) for key, text in server.environment.items()}
    log = logs / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [word.format_map(words) for word in server.command],
            env=os.environ | added,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    running = Running(
        name=name,
        pid=process.pid,
        url=f"http://127.0.0.1:{port}",
        tokenizer=str(Path(given["model"]) / "tokenizer.json"),
        versions=_versions(server.command[0].format_map(words), server.packages),
    )
    try:
        _wait(running, process)
        ask(running, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})
    except (OSError, RuntimeError) as error:
        stop(running)
        raise RuntimeError(f"{name} does not answer; see {log}: {error}") from error
    return running


def _versions(python: str, packages: Sequence[str]) -> str:
    """Return what is installed beside a Python, as "name version, name version"."""
    told = "from importlib.metadata import version; import sys; "
    told += "print(', '.join(f'{name} {version(name)}' for name in sys.argv[1:]))"
    done = subprocess.run(
        [python, "-c", told, *packages], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _wait(running: Running, process: subprocess.Popen[bytes]) -> None:
    end = time.perf_counter() + READY_S
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{running.url}/v1/models", timeout=5):
                return
        except urllib.error.HTTPError:  # it listens, which is enough: a question comes next
            return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"it did not listen within {READY_S:.0f} s")


def body(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a streaming, greedy chat request as this server wants it."""
    return {**given, "stream": True, "temperature": 0, **SERVERS[name].body}


def ask(running: Running, given: Mapping[str, Any]) -> str:
    """Ask once and return the whole stream: warms a server up, and shows what it does."""
    request = urllib.request.Request(
        f"{running.url}/v1/chat/completions",
        json.dumps(body(running.name, given)).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=READY_S) as response:
        return response.read().decode()


def stop(running: Running) -> None:
    """End a server's processes and wait until they are gone."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, sent)
        for _ in range(30):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(running.pid, os.WNOHANG)
            if not Path(f"/proc/{running.pid}").exists():
                return
            time.sleep(0.1)


def rss_bytes(running: Running) -> int:
    """Return the resident memory of a server's processes, in bytes."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (process / "stat").read_text("utf-8").rpartition(")")[2].split()
            if int(fields[2]) == running.pid:  # its group
                pages += int((process / "statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
