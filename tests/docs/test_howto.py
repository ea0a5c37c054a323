"""Each how-to page, followed as it stands, in a folder with a small model and a trained run in it."""

import contextlib
import json
import os
import signal
import socket

import attrs
import pytest

import lmkit as lk
from lmkit.testing import toy_tokenizer

from .snippets import DOCS, Reader, programs

FOLDER = DOCS / "howto"
# The pages that need no torch.
LOOKING = ("debug-labels", "test-a-task", "start-a-plugin")
MAKING = ("compose", "export", "deploy", "serve", "fine-tune", "train-on-many", "write-a-loss")
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
ORDERS = [{"text": "사과 둘이요", "item": "사과"}, {"text": "빵 주세요", "item": "빵"}]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader in a folder with what the pages take for granted: a model's tokenizer and config."""
    root = tmp_path_factory.mktemp("howto")
    base = root / "work" / "models" / "base"
    base.mkdir(parents=True)
    tokenizer = toy_tokenizer()
    tokenizer.save(base)
    config = SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_id}
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    return Reader(root / "work", programs(root / "bin"), inside=True)


@pytest.fixture(scope="module")
def maker(reader):
    """The same reader once the model has weights and a run was trained."""
    transformers = pytest.importorskip("transformers")
    base = reader.folder / "models" / "base"
    config = transformers.AutoConfig.from_pretrained(base)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)
    lk.train(
        lk.Task(
            name="orders",
            formatter=lk.context("주문: {text}\n") + lk.target("{item}"),
            collator=lk.CausalCollator(max_length=64),
            decoder=lk.TextDecoder(),
        ),
        model=lk.scratch(
            "gpt2", n_layer=2, n_embd=64, n_head=2, n_positions=64, initializer_range=0.1
        ),
        tokenizer=lk.train_tokenizer(kind="bpe", vocab_size=400, data=ORDERS),
        data=ORDERS,
        output=reader.folder / "runs" / "orders",
        max_steps=40,
        learning_rate=1e-2,
        save_strategy="no",
        use_cpu=True,
    )
    (reader.folder / "orders.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ORDERS), "utf-8"
    )
    yield reader
    left = reader.folder / "server.pid"
    with contextlib.suppress(OSError, ValueError):  # a page that failed may leave its server
        os.kill(int(left.read_text()), signal.SIGKILL)


def page(name):
    return FOLDER / f"{name}.md"


def test_every_page_is_followed():
    pages = {file.stem for file in FOLDER.glob("*.md")} - {"index", "playground", "scale"}

    assert pages == {*LOOKING, *MAKING}


@pytest.mark.parametrize("name", LOOKING)
def test_a_page_that_looks_does_as_it_says(name, reader):
    reader.follow(page(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKING)
def test_a_page_that_makes_does_as_it_says(name, maker):
    if name in ("deploy", "serve") and not (maker.folder / "bundles" / "orders").exists():
        maker.follow(page("export"))
    with socket.socket() as bound:  # whatever else of this machine may be using the page's port
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
    attrs.evolve(maker, instead={"8000": port} if name == "serve" else {}).follow(page(name))
