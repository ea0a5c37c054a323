"""Cold start: from starting a process to the first piece of text, each side in a fresh one every time.

Ours is the command `lmkit generate`, as a user types it. A peer is the shortest script that loads the
same model with its library and prints an answer as it comes; OpenVINO may keep what it compiled from one
start to the next (`CACHE_DIR`), as its documentation advises. All get the same text, are told to be
greedy, and take turns; what the system has read of the files stays in memory for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.benching.report import Spread

QUESTION = "What is the capital of France? Answer in one sentence."
TIMEOUT_S = 120.0

GENAI = """
import json, sys
import onnxruntime_genai as og
folder, prompt, threads = sys.argv[1:]
config = og.Config(folder)
options = {"intra_op_num_threads": int(threads)}
config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
model = og.Model(config)
tokenizer = og.Tokenizer(model)
text = tokenizer.create_stream()
params = og.GeneratorParams(model)
params.set_search_options(max_length=256, do_sample=False)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode(prompt))
for _ in range(4):
    generator.generate_next_token()
    sys.stdout.write(text.decode(generator.get_next_tokens()[0]))
    sys.stdout.flush()
"""
LLAMA_CPP = """
import sys
import llama_cpp
file, prompt, threads = sys.argv[1:]
model = llama_cpp.Llama(
    file, n_ctx=256, n_threads=int(threads), n_threads_batch=int(threads), verbose=False
)
for part in model.create_completion(prompt, max_tokens=4, temperature=0, stream=True):
    sys.stdout.write(part["choices"][0]["text"])
    sys.stdout.flush()
"""
OPENVINO = """
import os, sys
import openvino_genai
folder, prompt, threads = sys.argv[1:]
options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": int(threads), "NUM_STREAMS": 1}
pipe = openvino_genai.LLMPipeline(folder, "CPU", **options, CACHE_DIR=os.environ["KEPT"])
def show(piece):
    sys.stdout.write(piece)
    sys.stdout.flush()
    return openvino_genai.StreamingStatus.RUNNING
config = openvino_genai.GenerationConfig()
config.max_new_tokens, config.do_sample, config.apply_chat_template = 4, False, False
pipe.generate(prompt, config, show)
"""
TRANSFORMERS = """
import sys
import torch, transformers
folder, prompt, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
transformers.logging.set_verbosity_error()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
class Show:
    def __init__(self):
        self.seen = False
    def put(self, ids):
        if self.seen:  # what comes first is the prompt
            sys.stdout.write(tokenizer.decode(ids))
            sys.stdout.flush()
        self.seen = True
    def end(self):
        pass
given = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
model.generate(**given, max_new_tokens=4, do_sample=False, streamer=Show())
"""
# Title -> the library's home in `HOMES`, the script, and the model within `models`.
PEERS = {
    "genai int4": ("genai", GENAI, "genai-int4"),
    "llama.cpp q4_1": ("llama.cpp", LLAMA_CPP, "GGUF"),
    "openvino int4": ("openvino", OPENVINO, "openvino-int4"),
    "transformers fp32": ("transformers", TRANSFORMERS, "MODEL"),
}


@attrs.frozen
class Starting:
    """A side that is started.

    Attributes:
        title: how tables name it.
        command: what is run.
        what: in words.
    """

    title: str
    command: Sequence[str]
    what: str


def sides(
    bundle: Path,
    prompt: str,
    *,
    threads: int,
    pythons: Mapping[str, str],
    place: Callable[[str], str],
) -> list[Starting]:
    """Return ours and the peers, each with its command.

    Args:
        bundle: ours.
        prompt: the question as the model reads it, for those that know no chat template of ours.
        threads: of each.
        pythons: peers' interpreters, by name; this one's for others.
        place: returns where a model lies.
    """
    ours = [sys.executable, "-m", "lmkit", "generate", str(bundle), "--precision", "int4"]
    ours += ["--set", f"messages={QUESTION}", "--stream", "--max-new-tokens", "4"]
    found = [Starting("lmkit int4", [*ours, "--threads", f"{threads}"], "lmkit generate --stream")]
    for title, (name, script, model) in PEERS.items():
        python = pythons.get(name, sys.executable)
        command = [python, "-c", script, place(model), prompt, f"{threads}"]
        found.append(Starting(title, command, "the shortest script"))
    python = [sys.executable]
    found.append(Starting("lmkit --help", [*python, "-m", "lmkit", "--help"], "to its text"))
    imported = [*python, "-c", "import lmkit; print(lmkit.__version__)"]
    found.append(Starting("import lmkit", imported, "and a line printed"))
    return [
        *found,
        Starting("python", [*python, "-c", "print()"], "a line printed, for comparison"),
    ]


def measure(
    started: Sequence[Starting],
    *,
    rounds: int,
    threads: int,
    kept: Path,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Start every side in turn, once to warm up and then as often as is counted; return JSON data."""
    times: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    total = (rounds + 1) * len(started)
    for turn in range(rounds + 1):
        for at, side in enumerate(started):
            on_progress(f"starting {side.title}", turn * len(started) + at, total)
            if side.title in reasons:
                continue
            try:
                took = first_text_s(side.command, threads=threads, kept=kept)
            except (OSError, RuntimeError) as error:
                reasons[side.title] = str(error)
                continue
            if turn:
                times.setdefault(side.title, []).append(took)
    return {
        "results": [
            {
                "title": side.title,
                "what": side.what,
                "start_s": attrs.asdict(Spread.of(times[side.title])),
                "figures": [],
            }
            for side in started
            if side.title in times
        ],
        "skipped": [{"title": title, "reason": reason} for title, reason in reasons.items()],
        "rounds": rounds,
    }


def first_text_s(command: Sequence[str], *, threads: int, kept: Path) -> float:
    """Return the seconds until a command's first piece of text.

    Raises:
        RuntimeError: it ended without any, or had to be ended; the text has its last words.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": f"{threads}", "KEPT": str(kept)}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=environment
        ) as process:
            end = threading.Timer(TIMEOUT_S, process.kill)
            end.start()
            assert process.stdout is not None
            first = process.stdout.read(1)
            took = time.perf_counter() - start
            process.communicate()
            end.cancel()
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if not first or process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {lines[-1] if lines else 'no text'}")
    return took
