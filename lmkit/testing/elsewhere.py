"""Ask a fresh process of the same Python, which has imported nothing yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


class ProcessFailed(Exception):
    """The process ended before it said anything; the text is the last that it wrote of why."""


def asked_elsewhere(script: str, *arguments: str) -> Any:
    """Run a script that finds the modules that are found here, and return its last line, read as JSON.

    Args:
        script: Python, which prints JSON at its end.
        arguments: what it finds in `sys.argv[1:]`.
    Raises:
        ProcessFailed: it ended with an exit code that is not 0.
    """
    path = os.pathsep.join(dict.fromkeys(entry or os.getcwd() for entry in sys.path))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise ProcessFailed((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
