"""A headless Chromium for tests that look at a page as its reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


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
    context = browser.new_context(**settings)
    context.set_default_timeout(5000)
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    tab.on(
        "request",
        lambda request: (
            None
            if request.url.split("#")[0] == file.as_uri() or request.url.startswith("data:")
            else complaints.append(f"request: {request.url}")
        ),
    )
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert complaints == []


def sideways(tab: Any) -> int:
    """How many pixels the page is wider than its window."""
    return int(tab.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
