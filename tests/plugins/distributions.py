"""Distributions that look installed to Python: a folder on its path, a dist-info and a module each."""

import os
import subprocess
import sys
from pathlib import Path

README = "\n".join(f"Line {n} of what a distribution says of itself." for n in range(100))

TASK = """
import lmkit as lk

@lk.hookimpl
def lmkit_tasks():
    return [lk.Task(name="{task}", formatter=lk.context("{{q}}") + lk.target("{{a}}"),
                    collator=lk.CausalCollator(), decoder=lk.TextDecoder())]
"""


def install(folder, name, source, *, version="1.0", entry_points=None, metadata=None):
    """Write a distribution `lmkit-NAME` with the plugin NAME, whose module's source is given.

    `entry_points` and `metadata` are the whole texts of those files, where they are to be odd.
    """
    info = Path(folder) / f"lmkit_{name}-{version}.dist-info"
    info.mkdir(parents=True)
    if metadata is None:
        metadata = f"Metadata-Version: 2.1\nName: lmkit-{name}\nVersion: {version}\n\n{README}\n"
    if entry_points is None:
        entry_points = f"[lmkit]\n{name} = lmkit_{name}\n"
    if metadata:
        (info / "METADATA").write_text(metadata, "utf-8")
    (info / "entry_points.txt").write_bytes(
        entry_points if isinstance(entry_points, bytes) else entry_points.encode()
    )
    (Path(folder) / f"lmkit_{name}.py").write_text(source, "utf-8")


def environment(folder=None, **more):
    """Return the environment of a process that finds the folder's distributions."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    path = [str(folder)] if folder else []
    path += [kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else []
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "NO_COLOR": "1", **more}


def lmkit(*args, folder=None, **more):
    """Run the command in a process of its own, where the folder's distributions are installed."""
    return subprocess.run(
        [sys.executable, "-m", "lmkit", *map(str, args)],
        env=environment(folder, PYTHONIOENCODING="utf-8", **more),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
