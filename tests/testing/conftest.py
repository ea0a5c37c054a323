"""The plugin whose parts break promises, as an installed one would offer it."""

import sys
from pathlib import Path

import pytest

from lmkit.plugins import load

FILE = Path(__file__).with_name("broken_parts.py")


@pytest.fixture(scope="session")
def found():
    return load([], {"LMKIT_PLUGIN_FILES": str(FILE)})


@pytest.fixture
def broken(found, monkeypatch):
    """Return the plugin's module, whose classes JSON can name here and in other processes."""
    home = sys.modules["lmkit.plugins"]  # `lmkit.plugins` is the function of that name
    monkeypatch.setattr(home, "installed", lambda: found)
    monkeypatch.setenv("LMKIT_PLUGIN_FILES", str(FILE))
    return sys.modules["lmkit_file_broken_parts"]
