"""A headless Chromium for tests that look at a page as its reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PATIENCE = 20_000  # milliseconds; a machine may have other work


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A playwright browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(browser: Any, file: Path, **settings: Any) -> Iterator[Any]:
    """The file's page in a window of its own, which must stay silent and offline.

    Args:
        browser: the fixture above.
        file: an HTML file.
        settings: of the window, as playwright's `new_context` takes them.
    """
    with watched(browser, file.as_uri(), **settings) as (tab, complaints):
        yield tab
    assert complaints == []


@contextmanager
def watched(browser: Any, url: str, **settings: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page in a window of its own, and what it complains of or asks of others.

    Args:
        browser: the fixture above.
        url: where the page is. On a server, it may ask that server; from a file, nobody.
        settings: of the window, as playwright's `new_context` takes them.
    """
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    tab.on(
        "request",
        lambda request: (
            None
            if _is_own(request.url.split("#")[0], url)
            else complaints.append(f"request: {request.url}")
        ),
    )
    tab.goto(url)
    yield tab, complaints
    context.close()


def _is_own(asked: str, url: str) -> bool:
    if asked.startswith("data:"):
        return True
    page = url.split("#")[0]
    return asked == page if url.startswith("file:") else urlsplit(asked)[:2] == urlsplit(page)[:2]


def sideways(tab: Any) -> int:
    """How many pixels the page is wider than its window."""
    return int(tab.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
