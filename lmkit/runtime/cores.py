"""How many cores this process may use: not how many the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cores() -> int:
    """Return how many threads may compute at once, at least one.

    That is the cores that the process may run on, no more than its control groups' quota of their
    time (to the nearest core), and no more than `OMP_NUM_THREADS` allows.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [float(cores or 1), *quotas()]
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdigit() and int(allowed):
        limits.append(int(allowed))
    return max(1, round(min(limits)))


def quotas(root: Path = Path("/")) -> Iterator[float]:
    """Yield the limits of this process's control groups and of those around them, in cores.

    Args:
        root: where `proc` and `sys` are.

    Source: the Linux kernel's Documentation/admin-guide/cgroup-v2.rst, `cpu.max`, and
    Documentation/scheduler/sched-bwc.rst, `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        for group in _upwards(path):
            if not kinds:
                yield from _limit(_text(mounts / group / "cpu.max"))
            elif "cpu" in kinds.split(","):
                folder = mounts / "cpu" / group
                parts = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                yield from _limit(" ".join(parts))


def _upwards(path: str) -> Iterator[str]:
    """Yield a group's path and those of all around it, the outermost last."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for count in range(len(parts), -1, -1):
        yield "/".join(parts[:count])


def _limit(text: str) -> Iterator[float]:
    """Yield the quota of a period in cores, if there is one; "max" and -1 mean none."""
    numbers = text.split()
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        quota, period = map(int, numbers)
        if quota and period:
            yield quota / period


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
