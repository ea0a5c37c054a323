"""The playground in a browser: a page of a server that really answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import attrs
import pytest
from browser import PATIENCE, watched
from runtime.toybundle import TASK, write_bundle

import lmkit as lk
from lmkit.serve.app import make_app
from lmkit.serve.models import Models
from serve.conftest import running

SAYS = "네, 안녕하세요 👋"
Visit = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def models(bundles, tmp_path_factory) -> Iterator[Models]:
    """Return a task of each kind; `toy` says `SAYS`, whole."""
    writes = attrs.evolve(TASK, generation=lk.Generation(max_new_tokens=40))
    greeter = write_bundle(tmp_path_factory.mktemp("playground") / "toy", task=writes, says=SAYS)
    others = {name: bundles[name] for name in ("chat", "judge", "mlm")}
    opened = Models.open({"toy": greeter, **others}, threads=1, verify=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def url(models) -> Iterator[str]:
    with running(make_app(models)) as address:
        yield address


@pytest.fixture
def visit(browser, url) -> Visit:
    """Return what opens a task's view: `visit("toy")`, with playwright's settings of a window.

    The page must ask nobody but its server, and must not complain; `expects` are words of complaints
    that are to come, such as the status of an answer that is an error.
    """

    pytest.importorskip("playwright.sync_api").expect.set_options(timeout=PATIENCE)

    @contextmanager
    def visit(
        task: str = "", *, at: str = url, expects: tuple[str, ...] = (), **settings: Any
    ) -> Iterator[Any]:
        with watched(browser, f"{at}/#/{task}", **settings) as (tab, complaints):
            tab.locator("main > *").first.wait_for()
            yield tab
        unlike = [one for one in complaints if not any(word in one for word in expects)]
        assert unlike == []
        assert all(any(word in one for one in complaints) for word in expects)

    return visit


@pytest.fixture
def slow(models) -> Iterator[tuple[Slowly, str]]:
    """Return an application whose streams take their time, and its address."""
    app = Slowly(make_app(models), seconds=1.5)
    with running(app) as address:
        yield app, address


class Slowly:
    """An application whose streams take their time, and which knows who hung up.

    Args:
        app: what answers.
        seconds: how long each event is held back.
    """

    def __init__(self, app: Any, seconds: float) -> None:
        self.app, self.seconds, self.hung_up = app, seconds, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        streams = b"stream=true" in scope.get("query_string", b"")

        async def slow(message: Any) -> None:
            await send(message)
            if streams and message["type"] == "http.response.body":
                await asyncio.sleep(self.seconds)

        async def heard() -> Any:
            message = await receive()
            self.hung_up += streams and message["type"] == "http.disconnect"
            return message

        await self.app(scope, heard, slow)
