"""Scripts run in processes of their own that need not import torch first: forks of one that has.

As a script it is that one: it imports what it is told to, then reads a line of JSON for each script to
run, and answers with its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

# What takes the longest of what training and export need.
HEAVY = ("datasets", "lmkit", "onnxscript", "peft", "torch.onnx", "transformers.trainer")


class Forks:
    """A process that runs scripts in forks of itself; use it as a context, which ends it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *HEAVY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def run(self, script: Path, *, folder: Path, output: Path) -> tuple[int, str, str]:
        """Run a script in a folder; return its exit code, standard output and standard error.

        What it prints goes through files in `output`.
        """
        files = [output / "stdout", output / "stderr"]
        asked = [str(script), str(folder), *map(str, files)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, *(file.read_text("utf-8") for file in files)


def main() -> None:
    """Wait for scripts to run; in a fork, run one."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(*asked)
            return
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(script: str, folder: str, *files: str) -> None:
    os.chdir(folder)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [script]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
