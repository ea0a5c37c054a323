"""Answer a benchmark's requests: one JSON object a line on standard input, one reply a line.

    python serve.py with_transformers.py

Started as a script in the peer's own Python; it needs the standard library only. The file named
defines `Side`: `Side(given)` loads a model, `run(work)` does a piece of work, and `library` and
`settings` tell in words what it is; `score(rows)`, where it is, returns the log-probability of each
id of each row behind its first. What a library prints goes to standard error, so that nothing but
replies is on standard output.

Requests are `{"do": "load", ...}`, whose other fields are what `Side` is given, `{"do": "run", ...}`,
whose other fields are the work, `{"do": "score", "rows": [...]}`, and `{"do": "stop"}`. A reply is
what was found with `peak_bytes`, the most memory that the process has held, or `{"error": "..."}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def main() -> None:
    """Answer until told to stop, or until the one who asks is gone."""
    end_with_parent()
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    asked = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    side: Any = None
    for line in asked:
        request = json.loads(line)
        act = request.pop("do")
        if act == "stop":
            return
        try:
            if act == "load":
                start = time.perf_counter()
                side = load(sys.argv[1]).Side(request)
                reply: dict[str, Any] = {"seconds": time.perf_counter() - start}
                reply.update(library=side.library, settings=side.settings)
            elif act == "score":
                reply = {"log_probs": side.score(request["rows"])}
            else:
                reply = side.run(request)
        except BaseException as error:  # whatever a library raises is told, and the worker lives on
            reply = {"error": f"{type(error).__name__}: {error}".strip(": ")}
        reply["peak_bytes"] = peak_bytes()
        replies.write(json.dumps(reply) + "\n")


def load(file: str) -> Any:
    """Return the module in a file."""
    spec = importlib.util.spec_from_file_location("side", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_bytes() -> int:
    """Return the most memory this process has held, mapped files counted as far as they were read.

    Linux's `ru_maxrss` would begin with what the parent held, so `VmHWM` is read where it is.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def end_with_parent() -> None:
    """Have Linux kill this process when its parent dies: while it is stopped it could not notice."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    # This folder is no place to import from: a library's own modules come first.
    sys.path[:] = [
        path
        for path in sys.path
        if os.path.realpath(path or ".") != os.path.dirname(os.path.realpath(__file__))
    ]
    main()
