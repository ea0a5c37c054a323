"""A side's own process, kept alive and asked in turn.

So peak memory is a side's own, libraries that do not bear each other never meet, and a peer may live in
another virtual environment. While another side works, this one is stopped by the system, so that none
of its threads that wait for work takes time from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Self

from lmkit.benching.sides import WORKERS, SideFailed
from lmkit.benching.sides import Side as SideToRun

_CAN_STOP = hasattr(signal, "SIGSTOP")


class Worker:
    """A running side.

    Args:
        side: what to run.
        threads: how many threads it may use.
        timeout_s: how long a reply may take.
    Raises:
        SideFailed: its interpreter cannot be started.
    """

    def __init__(self, side: SideToRun, *, threads: int, timeout_s: float) -> None:
        self.side = side
        self.peak_bytes = 0
        self.started = time.perf_counter()
        self.timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        command = [side.python, str(WORKERS / "serve.py"), str(side.worker)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(side, threads),
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        except OSError as error:
            self._errors.close()
            raise SideFailed(f"'{side.python}' cannot be started: {error.strerror}") from error
        self._replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, act: str, **request: Any) -> dict[str, Any]:
        """Send a request and return its reply.

        Raises:
            SideFailed: the side says so, dies, or does not answer in time; it is then ended.
        """
        self._signal("SIGCONT")
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": act, **request}) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=self.timeout_s)
        except queue.Empty:
            self.close()
            raise SideFailed(f"it did not answer within {self.timeout_s:g} seconds") from None
        except OSError:
            line = None
        if line is None:
            raise SideFailed(self._last_words())
        self._signal("SIGSTOP")
        reply: dict[str, Any] = json.loads(line)
        self.peak_bytes = max(self.peak_bytes, reply.pop("peak_bytes", 0))
        if "error" in reply:
            error = str(reply["error"])
            raise SideFailed(error, missing=error.startswith("ModuleNotFoundError"))
        return reply

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed while it is read
            for line in self._process.stdout:
                self._replies.put(line)
        self._replies.put(None)

    def _signal(self, name: str) -> None:
        if _CAN_STOP and self._process.poll() is None:
            os.kill(self._process.pid, getattr(signal, name))

    def _last_words(self) -> str:
        """Return why the process is gone, in its own words where it left any."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"it ended with {how}" + (f": {lines[-1].strip()}" if lines else "")


def _environment(side: SideToRun, threads: int) -> dict[str, str]:
    """Return the variables of a side's process: so many threads, and its own packages only."""
    environment = dict(os.environ)
    if side.python != sys.executable:
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
    count = str(threads)
    return environment | {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
