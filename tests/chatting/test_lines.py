"""What a terminal's lines are read with, which differs between systems."""

import atexit
import errno
import sys
import types

import pytest

from lmkit.chatting.lines import TerminalLines
from lmkit.errors import LmkitError


@pytest.fixture
def libedit(monkeypatch):
    """A readline as macOS has it, as far as a history goes."""

    def read_history_file(path):
        found = path.read_text("utf-8")
        if not found.startswith("_HiStOrY_V2_"):
            raise OSError(errno.EINVAL, "Invalid argument")
        read.extend(found.splitlines()[1:])

    read = []
    module = types.ModuleType(
        "readline", "Importing this module enables command line editing: libedit"
    )
    module.read_history_file = read_history_file
    for name in ("clear_history", "set_auto_history", "set_history_length"):
        setattr(module, name, lambda *given: None)
    monkeypatch.setitem(sys.modules, "readline", module)
    monkeypatch.setattr(atexit, "register", lambda work: None)
    return read


def test_a_history_begins_where_readline_is_libedit(libedit, tmp_path):
    TerminalLines(tmp_path / "history")

    assert (tmp_path / "history").exists()


def test_a_history_of_libedits_is_read(libedit, tmp_path):
    (tmp_path / "history").write_text("_HiStOrY_V2_\n하나\n", "utf-8")

    TerminalLines(tmp_path / "history")

    assert libedit == ["하나"]


def test_a_file_that_is_no_history_of_libedits_is_told(libedit, tmp_path):
    (tmp_path / "history").write_text("하나\n", "utf-8")

    with pytest.raises(LmkitError, match="history' cannot be read: Invalid argument"):
        TerminalLines(tmp_path / "history")
