"""A model small enough to train in a second, and the records it learns."""

import json

import pytest
import transformers
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.tokenizing import Tokenizer


@pytest.fixture(scope="session")
def rows():
    return ROWS


@pytest.fixture(scope="session")
def tokenizer():
    return lk.train_tokenizer(kind="char", unknown="token", data=ROWS)


@pytest.fixture(scope="session")
def tiny():
    """Return a one-layer model to be built, with GPT-2's usual dropout of 0.1."""
    return lk.scratch("gpt2", **TINY)


@pytest.fixture(scope="session")
def fit(tokenizer, tiny):
    """Return a function that trains the tiny model for two steps, unless told otherwise."""

    def fit(output, **changes):
        usual = {
            "model": tiny,
            "tokenizer": tokenizer,
            "data": ROWS,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "use_cpu": True,
        }
        return lk.train(changes.pop("task", "qa"), output=output, **{**usual, **changes})

    return fit


@pytest.fixture(scope="session")
def run(fit, tmp_path_factory):
    """Return a finished run with checkpoints; tests only read it."""
    return fit(
        tmp_path_factory.mktemp("run") / "run",
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        logging_steps=1,
        eval_data=ROWS[:5],
    )


@pytest.fixture(scope="session")
def without_pad(tokenizer):
    """Return a tokenizer as GPT-2's: an EOS, and no pad token."""
    special = {role: text for role, text in tokenizer.special.items() if role != "pad_token"}
    return Tokenizer(tokenizer.definition, special=special, chat_template=tokenizer.chat_template)


@pytest.fixture(scope="session")
def padded(tmp_path_factory, tokenizer, tiny):
    """Return a model folder whose vocabulary was rounded up to 64 rows."""
    folder = tmp_path_factory.mktemp("padded")
    config = transformers.GPT2Config(**tiny.config, vocab_size=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def jsonl(tmp_path):
    """Return a function that writes records into a file."""

    def write(records, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return path

    return write
