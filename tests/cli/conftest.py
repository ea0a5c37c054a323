import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from exported import copied_bundle, tiny_bundle, tiny_run

from lmkit.cli.main import run

__all__ = ["copied_bundle", "tiny_bundle", "tiny_run"]


@pytest.fixture
def lmkit(capsys):
    """Return a function that runs the command in this process and tells what came of it."""

    def lmkit(*args):
        code = run([str(arg) for arg in args])
        shown = capsys.readouterr()
        return SimpleNamespace(code=code, out=shown.out, err=shown.err)

    return lmkit


@pytest.fixture
def command():
    """Return a function that runs the command in a process of its own."""

    def command(*args, stdin=None, absent=(), **environ):
        """`absent` are packages that look as if they were not installed."""
        start = f"import sys\nfor n in {absent!r}: sys.modules[n] = None\n"
        script = f"{start}from lmkit.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            capture_output=True,
            encoding=environ.get("PYTHONIOENCODING", "utf-8"),
            input=stdin,
            env={**os.environ, **environ},
            check=False,
        )

    return command


@pytest.fixture
def jsonl(tmp_path):
    """Return a function that writes records into a file."""

    def write(records, name="data.jsonl"):
        path = tmp_path / name
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return path

    return write
