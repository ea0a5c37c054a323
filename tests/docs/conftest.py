"""A reader of the documentation, with a folder and a shell of their own."""

from __future__ import annotations

import pytest

from .snippets import Reader, programs


@pytest.fixture(scope="module")
def module_reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One reader for all the tests of a module, who keeps what was made."""
    root = tmp_path_factory.mktemp("reader")
    (root / "work").mkdir()
    return Reader(root / "work", programs(root / "bin"))


@pytest.fixture
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader who starts with an empty folder."""
    root = tmp_path_factory.mktemp("reader")
    (root / "work").mkdir()
    return Reader(root / "work", programs(root / "bin"))
