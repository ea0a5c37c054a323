"""Join a ray cluster, or start one on this machine, and leave it again."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import LmkitError, MissingExtra
from lmkit.plugins.switches import CHOOSE, DISABLE, FILES, STRICT

ADDRESS = "RAY_ADDRESS"  # ray's own name for it
# Parts of a file and answers pass through it, not weights: what does not fit is spilled to the disk.
OBJECT_STORE_BYTES = 128 << 20
KNOCK_SECONDS = 10.0


@attrs.frozen
class Joined:
    """A cluster that this process is part of.

    Attributes:
        ray: the package.
        cores: the cores of each node, the nodes with most first.
        here: the address of this process's node.
    """

    ray: Any
    cores: tuple[int, ...]
    here: str


def imported_ray() -> Any:
    """Return the package, without telemetry unless the environment says otherwise.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # a request's line in a log is like another's
    # What ray will do in a later version by itself: leave a device's visibility alone.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("--engine ray", "ray", error.name) from error
    return ray


@contextlib.contextmanager
def joined(address: str | None, *, cores: int, **options: Any) -> Iterator[Joined]:
    """Join the cluster at an address, or start one that ends when this is left.

    Args:
        address: of a cluster, such as `auto` or `10.0.0.1:6379`; None for `$RAY_ADDRESS`, or for a
            cluster of this machine's own where that is not set either.
        cores: how many cores a cluster of this machine's own has.
        options: further ones of `ray.init`.
    Raises:
        MissingExtra: ray is not installed.
        LmkitError: there is no cluster at the address.
    """
    ray = imported_ray()
    address = address or os.environ.get(ADDRESS) or "local"
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **options}
    if address == "local":
        options |= {
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    elif switches := plugin_switches():
        options["runtime_env"] = {"env_vars": switches}
    try:
        _knock(address)
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise LmkitError(
            f"there is no ray cluster to join at '{address}': {error}; start one with "
            "'ray start --head', or leave --address out for one of this machine's own"
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        found = sorted((int(resources.get("CPU", 0)) for resources in nodes), reverse=True)
        yield Joined(ray, tuple(found), ray.util.get_node_ip_address())
    finally:
        ray.shutdown()


def beside(ray: Any, kind: type) -> Any:
    """Start an actor on this process's own node, which is not lost unless all is; return its handle."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(scheduling_strategy=here, **options)(kind).remote()


def _knock(address: str) -> None:
    """Raise an error where nobody listens: ray itself would try again for minutes.

    Raises:
        OSError: nobody listens.
        ValueError: it is the address of something else.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ValueError("expected 'auto' or HOST:PORT, such as 10.0.0.1:6379")
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def plugin_switches() -> dict[str, str]:
    """Return what this process's environment says of plugins, as it is to hold on other machines."""
    found = {name: os.environ[name] for name in (CHOOSE, DISABLE, STRICT) if name in os.environ}
    if files := os.environ.get(FILES):
        found[FILES] = os.pathsep.join(
            str(Path(f).absolute()) for f in files.split(os.pathsep) if f
        )
    return found


@attrs.frozen
class Groups:
    """How a cluster's cores are shared out.

    Attributes:
        workers: how many processes have the model open.
        threads: how many cores each of them has.
    """

    workers: int
    threads: int

    @classmethod
    def of(
        cls, cores: tuple[int, ...], *, workers: int | None = None, threads: int | None = None
    ) -> Groups:
        """Return the groups that a cluster's nodes make.

        What is not said is found: of so many workers, as many cores for each as leave room for all; of
        any number, `MOST_THREADS` for each, or a whole node where none has more, and as many as there
        is room for.

        >>> Groups.of((8, 4))
        Groups(workers=3, threads=4)
        >>> Groups.of((8, 4), workers=4)
        Groups(workers=4, threads=2)

        Raises:
            LmkitError: no node has so many cores.
        """
        most = max(cores, default=0)
        if threads is None:
            largest = most if workers else min(MOST_THREADS, most)
            fitting = (n for n in range(largest, 1, -1) if cls(0, n).room(cores) >= (workers or 1))
            threads = next(fitting, 1)
        if threads > most:
            raise LmkitError(
                f"--threads {threads}: the largest node of the cluster has {most} cores, and a "
                "worker's threads are on one node"
            )
        groups = cls(workers=workers or 0, threads=threads)
        return groups if workers else cls(workers=groups.room(cores), threads=threads)

    def room(self, cores: tuple[int, ...]) -> int:
        """Return for how many workers there is room on nodes of so many cores."""
        return sum(count // self.threads for count in cores)


# A step of a few rows reads the weights, and four threads nearly fill a memory's width.
MOST_THREADS = 4
