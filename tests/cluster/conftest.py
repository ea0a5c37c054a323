"""A ray cluster of two nodes on this machine, and the command line beside it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OBJECT_STORE_BYTES = 80 << 20
# What the nodes start with is what their workers see: this checkout, or what is installed.
ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")},
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_COLOR": "1",
    "PYTHONIOENCODING": "utf-8",
}
DEADLINE = 120.0  # seconds that no step of a test takes, unless it hangs


class TwoNodes:
    """A cluster whose first node has room for two workers and whose second for one."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.nodes = []

    @property
    def address(self):
        return self.cluster.address

    def add(self, cores):
        self.nodes.append(
            self.cluster.add_node(
                num_cpus=cores, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False
            )
        )

    def lose(self, index):
        """End a node with all its processes, as a machine that is switched off."""
        self.cluster.remove_node(self.nodes.pop(index), allow_graceful=False)

    def workers(self, name="MapWorker"):
        """Return the processes that answer, by the index of the node that they are on."""
        found = {}
        for index, node in enumerate(self.nodes):
            (raylet,) = node.all_processes["raylet"]
            found[index] = [pid for pid in descendants(raylet.process.pid) if name in title(pid)]
        return found


def descendants(pid):
    """Return the processes that a process started, and those that these started, and so on."""
    parents = {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            )
        except (ValueError, OSError):  # no process, or one that has just ended
            continue
    found, some = [], [pid]
    while some:
        some = [child for child, parent in parents.items() if parent in some]
        found += some
    return found


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def two_nodes():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    before = set(Path("/tmp/ray").glob("session_2*"))
    os.environ.update(ENVIRON)
    cluster = TwoNodes(Cluster(shutdown_at_exit=True))
    try:
        cluster.add(2)
        cluster.add(1)
        yield cluster
    finally:
        cluster.cluster.shutdown()
        ray.shutdown()
        for session in set(Path("/tmp/ray").glob("session_2*")) - before:
            shutil.rmtree(session, ignore_errors=True)


class Command:
    """`lmkit` in a process of its own."""

    def __init__(self, *args, environ=ENVIRON):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lmkit", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environ,
            # What a shell starts in the background ignores Ctrl-C, and so would what that starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def end(self):
        """Wait for its end; return its exit code and what it printed."""
        try:
            out, err = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            out, err = self.process.communicate()
            pytest.fail(f"it did not end\n{out}\n{err}")
        return self.process.returncode, out, err


@pytest.fixture
def lmkit():
    """Return a function that starts a verb; what is still running at the end of the test is killed."""
    running = []

    def start(*args):
        running.append(Command(*args))
        return running[-1]

    yield start
    for command in running:
        if command.process.poll() is None:
            command.process.kill()
            command.process.communicate()


def until(condition, *, what):
    """Wait for something to hold, and return it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"still not: {what}")
    return None
