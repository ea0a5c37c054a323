"""For pytest: what `lmkit.testing` has, as fixtures, and a line on what could not be checked.

pytest imports this module in every run where lmkit is installed, so it imports nothing of lmkit
before a test asks for it. `-p no:lmkit` leaves it out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lmkit.scratch import Scratch
    from lmkit.testing.report import Report
    from lmkit.tokenizing import Tokenizer


@pytest.fixture(scope="session")
def toy_tokenizer() -> Tokenizer:
    """A tokenizer in which every character is one token, to check ids and labels by eye."""
    from lmkit.testing.toys import toy_tokenizer

    return toy_tokenizer()


@pytest.fixture(scope="session")
def tokenizers() -> Callable[..., Mapping[str, Tokenizer]]:
    """A function that returns a family's small tokenizers by name: `tokenizers("masked")`."""
    from lmkit.testing.toys import small_tokenizers

    return small_tokenizers


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Scratch]:
    """A function that returns a tiny model of a family for `lk.train`: `tiny_model("causal")`."""
    from lmkit.testing.models import tiny_model

    return tiny_model


@pytest.fixture(scope="session")
def sample_records() -> Callable[[str], list[dict[str, Any]]]:
    """A function that returns ten records: `sample_records("seq2seq")`."""
    from lmkit.testing.samples import sample_records

    return sample_records


@pytest.fixture(scope="session")
def check_task() -> Callable[..., Report]:
    """A function that checks a task: `check_task(TASK, RECORDS)`."""
    from lmkit.testing.checking import check_task

    return check_task


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which promises could not be checked, for want of packages."""
    checking = sys.modules.get("lmkit.testing.checking")
    lines: dict[str, None] = {}
    for report in getattr(checking, "reports", ()):
        lacking = [found for found in report.outcomes if found.lacking]
        if lacking:
            names = " and ".join(found.promise for found in lacking)
            reason = lacking[0].skipped.splitlines()[0]
            lines[f"task '{report.task}': {names} not checked: {reason}"] = None
    if lines:
        terminalreporter.section("lmkit")
        for line in lines:
            terminalreporter.write_line(line)
