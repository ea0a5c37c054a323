"""Toy bundles behind a real socket on loopback, made once; and an application to call in-process."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from runtime.toybundle import write_bundle
from runtime.toymasked import write_masked_bundle

import lmkit as lk
from lmkit.serve.app import make_app
from lmkit.serve.connections import Connection, Patience
from lmkit.serve.models import Models
from lmkit.serve.settings import Settings

CHAT = lk.Task(
    name="chat",
    formatter=lk.Chat(template="{% for m in messages %}{{ m.content }}\n{% endfor %}"),
    collator=lk.CausalCollator(max_length=64),
    decoder=lk.TextDecoder(),
    generation=lk.Generation(max_new_tokens=12),
)
JUDGE = lk.Task(
    name="judge",
    formatter=lk.context("{prompt}\n")
    + lk.context("{question}").when("question")
    + lk.target(" {answer}"),
    collator=lk.CausalCollator(max_length=64),
    decoder=lk.LabelDecoder(labels=("예", "아니요")),
)
TALK = {"messages": [{"role": "user", "content": "안녕"}]}
ASKED_PAIR = {"prompt": "안녕", "other": "네"}
PAIR = lk.Task(
    name="pair",
    formatter=lk.context("{prompt} {other}") + lk.target(" {answer}"),
    collator=lk.CausalCollator(max_length=64),
    decoder=lk.TextDecoder(),
    generation=lk.Generation(max_new_tokens=5),
)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of bundles of every kind; tests only read them."""
    folder = tmp_path_factory.mktemp("serve")
    return {
        "toy": write_bundle(folder / "toy", says="네, 안녕하세요 👋"),
        "noise": write_bundle(folder / "noise"),
        "chat": write_bundle(folder / "chat", task=CHAT, record=TALK),
        "pair": write_bundle(folder / "pair", task=PAIR, record=ASKED_PAIR),
        "judge": write_bundle(folder / "judge", task=JUDGE),
        "mlm": write_masked_bundle(folder / "mlm"),
    }


@pytest.fixture(scope="session")
def models(bundles) -> Iterator[Models]:
    opened = Models.open(bundles, threads=1, verify=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def url(models) -> Iterator[str]:
    """Return the address of a server on loopback."""
    with running(make_app(models, settings=Settings())) as address:
        yield address


@contextlib.contextmanager
def running(app: object) -> Iterator[str]:
    """Run an application on a free port of loopback, in a thread."""
    bound = socket.create_server(("127.0.0.1", 0))
    protocol = functools.partial(Connection, patience=Patience())
    config = uvicorn.Config(app, log_config=None, http=protocol, ws="none", lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
