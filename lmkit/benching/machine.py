"""What a benchmark ran on, in the words that matter to one who compares figures."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from lmkit.runtime.cores import available_cores


def machine() -> dict[str, Any]:
    """Return the processor, its cores that may be used, memory, system and Python."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        facts = dict(line.partition(":")[::2] for line in lines[: lines.index("")])
        named = {name.strip(): text.strip() for name, text in facts.items()}
        if "model name" in named:
            family = f", family {named['cpu family']}" if "cpu family" in named else ""
            return f"{named['model name']}{family}"
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
