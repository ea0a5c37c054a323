"""What `lmkit demo` does, stage by stage; each stage returns what the command prints."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmkit.answering import Answerer, open_answerer
from lmkit.evaluating import evaluate
from lmkit.export.bundle import export
from lmkit.records import Row, read
from lmkit.registry import one_task
from lmkit.runtime.bundle import Bundle
from lmkit.scratch import scratch
from lmkit.train.answering import TorchAnswerer
from lmkit.train.extra import torch
from lmkit.train.folder import Run
from lmkit.train.models import load_model
from lmkit.train.run import train
from lmkit.vocabulary import train_tokenizer

DATA = Path(__file__).with_name("ko_chat_qa.jsonl")
N_HELD_OUT = 150
# The last one is not among the records that the model learns from.
ASKED = (
    "너무 졸려",
    "날씨 좋은데",
    "맞는 선택일까",
    "건강하게 다이어트 하는 방법",
    "오늘 너무 더워",
)

# Small enough for two cores and two minutes, large enough to answer what it was trained on.
MODEL = scratch(
    "llama",
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=160,
    intermediate_size=480,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)
TRAINING: dict[str, Any] = {
    "num_train_epochs": 18,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 40,
    "per_device_train_batch_size": 16,
    "save_strategy": "no",
    "logging_steps": 50,
    "seed": 0,
}
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 32}
TIMED_TOKENS = 64
TIMED_RUNS = 3


def split() -> tuple[list[Row], list[Row]]:
    """Return the packaged records: those to learn from, and those held out."""
    rows = read(DATA)
    return rows[N_HELD_OUT:], rows[:N_HELD_OUT]


def untrained(rows: Sequence[Row]) -> TorchAnswerer:
    """Return the model as it is before training."""
    tokenizer = train_tokenizer(kind="char", unknown="token", data=rows)
    task = one_task("qa")
    loaded = load_model(MODEL, family=task.family, tokenizer=tokenizer, seed=0)
    return TorchAnswerer(task=task, model=loaded.model, tokenizer=loaded.tokenizer)


def train_run(rows: Sequence[Row], folder: Path, tokenizer: Any) -> Run:
    """Train on the packaged records.

    One thread: the steps of so small a model are too short to be shared, and on a busy machine two
    threads that wait for each other took five times as long.
    """
    threads = torch().get_num_threads()
    torch().set_num_threads(1)
    try:
        return train("qa", model=MODEL, tokenizer=tokenizer, data=rows, output=folder, **TRAINING)
    finally:
        torch().set_num_threads(threads)


def export_run(run: Run, rows: Sequence[Row], folder: Path) -> Bundle:
    """Export, checked against torch on packaged questions."""
    return export(run, output=folder, data=rows)


def answers(model: Answerer, questions: Sequence[str] = ASKED) -> list[str]:
    """Return greedy answers to some questions."""
    found = model.batch([{"prompt": question} for question in questions], **GREEDY)
    return [str(answer.value) for answer in found]


def perplexity(model: Answerer, rows: Sequence[Row]) -> float:
    """Return the perplexity on some records."""
    return evaluate(model, data=rows)["perplexity"]


def ask_without_torch(bundle: Path) -> dict[str, Any]:
    """Return what a fresh process answers, and which heavy packages it has loaded."""
    code = (
        "import json, sys, time\n"
        "import lmkit as lk\n"
        "ask = lk.load(sys.argv[1])\n"
        "answers = [a.value for a in ask.batch([{'prompt': q} for q in sys.argv[2:]], "
        f"**{GREEDY!r})]\n"
        "heavy = [n for n in ('torch', 'transformers', 'datasets') if n in sys.modules]\n"
        "print(json.dumps({'answers': answers, 'heavy': heavy}))\n"
    )
    command = [sys.executable, "-c", code, str(bundle), *ASKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def speeds(run: Run, bundle: Path) -> dict[str, float]:
    """Return tokens per second of torch's generate() and of the bundle, medians taken in turn."""
    # Nothing is kept of a prompt: the same one is read again and again here.
    models = {
        "generate()": open_answerer(run.path),
        "bundle": open_answerer(bundle, prefix_cache_bytes=0),
    }
    rates: dict[str, list[float]] = {name: [] for name in models}
    for timed in range(TIMED_RUNS + 1):  # the first turn warms both up
        for name, model in models.items():
            start = time.perf_counter()
            count = _write(model)
            if timed:
                rates[name].append(count / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


def _write(model: Answerer) -> int:
    answer = model(
        {"prompt": ASKED[0]},
        temperature=0.0,
        min_new_tokens=TIMED_TOKENS,
        max_new_tokens=TIMED_TOKENS,
        prompt_lookup_num_tokens=0,  # forced to go on, it repeats itself, which drafts would flatter
    )
    return answer.usage.completion_tokens
