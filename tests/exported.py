"""A tiny run and its bundle, each made once a session and shared by the tests that only read them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lmkit as lk

QUESTIONS = {
    "안녕하세요?": "네, 안녕하세요! 😊",
    "오늘 날씨 어때요?": "맑아요.",
    "What is 2+2?": "It is 4.",
    "Who are you?": "A very small model.",
}
ROWS = [{"prompt": prompt, "completion": text} for prompt, text in QUESTIONS.items()] * 10
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    }
    for row in ROWS
]
CONTEXT_LENGTH = 128
LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": CONTEXT_LENGTH}


def train_tiny(output: Path, *, task: str = "qa", model: object = None, **options: object) -> Any:
    """Train a small model until it knows its few answers more or less."""
    rows = CHATS if task == "chat" else ROWS
    usual: dict[str, object] = {
        "tokenizer": lk.train_tokenizer(kind="bpe", vocab_size=320, data=rows),
        "max_steps": 25,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "use_cpu": True,
        "logging_steps": 25,
    }
    return lk.train(
        task,
        model=model or lk.scratch("llama", **LLAMA),
        data=rows,
        output=output,
        **{**usual, **options},
    )


_made: dict[str, Path] = {}  # by what; a fixture imported in two folders is two fixtures


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of `qa`; it is only read."""
    if "run" not in _made:
        _made["run"] = train_tiny(tmp_path_factory.mktemp("tiny") / "run").path
    return _made["run"]


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of that run's bundle; it is only read."""
    if "bundle" not in _made:
        folder = tmp_path_factory.mktemp("tiny") / "bundle"
        _made["bundle"] = lk.export(tiny_run, output=folder, data=ROWS).path
    return _made["bundle"]


@pytest.fixture
def copied_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle to tamper with."""
    return shutil.copytree(tiny_bundle, tmp_path / "copied")
