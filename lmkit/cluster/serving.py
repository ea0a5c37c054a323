"""Serve bundles with replicas on a cluster: `lmkit serve --engine ray`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import attrs

from lmkit.cluster.doorbell import Doorbell
from lmkit.cluster.replica import Door, Plan, Replica
from lmkit.cluster.starting import Groups, beside, joined
from lmkit.errors import LmkitError
from lmkit.runtime.bundle import open_bundle
from lmkit.runtime.cores import available_cores
from lmkit.serve.running import PARTING_SECONDS, listen, url_of
from lmkit.serve.settings import is_loopback

log = logging.getLogger("lmkit.serve")

NAME = "lmkit"  # of the application among Ray Serve's
# Beyond those who write and wait: who asks for no text, and who is to be told that there is no room.
OTHER_REQUESTS = 64
# In which every replica has heard the doorbell, one that was lost excepted. One that has not is drained by
# Ray Serve, which answers what is new meanwhile with its own 404.
HEARD_SECONDS = 3.0
# What a replica has written goes through Ray's proxy, which may be behind and has no way to say so.
HANDED_ON_SECONDS = 2.0


@attrs.frozen(kw_only=True)
class Fleet:
    """Replicas that are to be.

    Attributes:
        plan: what each serves; its `threads` are found if 0.
        host: the address to listen on: on the head node alone if it is that node's own, else on every.
        port: as for `lmkit.serve.running.listen`.
        replicas: how many; as many as there is room for if None. With `most_replicas`, the fewest.
        most_replicas: up to how many there may be as requests come; None for no more than at first.
        address: of a cluster; see `joined`.
        drain: seconds that running answers have to end when the server is told to stop.
    """

    plan: Plan
    host: str
    port: int
    replicas: int | None = None
    most_replicas: int | None = None
    address: str | None = None
    drain: float = 30.0

    @property
    def fewest(self) -> int:
        """How many replicas there are at first, where more may come."""
        return self.replicas or 1

    @property
    def most(self) -> int | None:
        """Up to how many there may be; None for as many as there is room for."""
        if self.most_replicas is None:
            return self.replicas
        return max(self.fewest, self.most_replicas)

    def groups(self, cores: tuple[int, ...]) -> Groups:
        """Return how the cores of a cluster's nodes are shared out among the most that there may be."""
        return Groups.of(cores, workers=self.most, threads=self.plan.threads or None)


def serve_on_cluster(
    fleet: Fleet, *, on_ready: Callable[[str, list[tuple[str, str]]], object]
) -> None:
    """Serve until a signal.

    Args:
        fleet: what to serve, and how often.
        on_ready: is told the address, and the bundles' names and folders, when clients can ask.
    Raises:
        BundleError: a bundle is missing or damaged.
        LmkitError: there is no room, no such cluster, or the address is taken.
    """
    for _, path in fleet.plan.bundles:  # a mistake is told at once here, and late by replicas
        open_bundle(path, precision=fleet.plan.precision, checksums=False)
    bound = listen(fleet.host, fleet.port)
    url, port = url_of(bound), int(bound.getsockname()[1])
    bound.close()  # Ray Serve takes it, in a process of its own
    cores = max(available_cores(), fleet.fewest * (fleet.plan.threads or 1))
    with Stop() as stop, joined(fleet.address, cores=cores, log_to_driver=True) as cluster:
        stop.listen()  # ray takes the signals for itself as it starts
        groups = fleet.groups(cluster.cores)
        at_first = groups.workers if fleet.most_replicas is None else fleet.fewest
        if (room := groups.room(cluster.cores)) < at_first:
            log.warning(
                "there is room for %d of %d replicas with %d threads each; the server is ready when "
                "nodes have joined the cluster for the others",
                *(room, at_first, groups.threads),
            )
        with _deployed(fleet, groups, port) as (handle, doorbell):
            names = handle.names.remote().result()
            stop.ready()
            on_ready(url, names)
            stop.wait()
            _drain(cluster.ray, doorbell, fleet.drain)


class Stop:
    """Hears SIGTERM and SIGINT; a second one ends the process at once.

    While replicas start the first one interrupts that; from `ready` on it ends `wait`.
    """

    def __init__(self) -> None:
        self._told = threading.Event()
        self._ready = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Hear the signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._hear)
            self._before.setdefault(number, before)

    def ready(self) -> None:
        """Interrupt nothing from now on."""
        self._ready = True

    def wait(self) -> None:
        """Return when there was a signal."""
        while not self._told.wait(0.5):  # a bare wait would keep the handler from running
            pass

    def __enter__(self) -> Stop:
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._told.is_set():
            os.write(2, b"stopped at once\n")
            os._exit(128 + number)
        self._told.set()
        if not self._ready:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _deployed(fleet: Fleet, groups: Groups, port: int) -> Iterator[tuple[Any, Any]]:
    """Start Ray Serve with the replicas; give their handle and their doorbell."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if serve.status().applications:
        raise LmkitError(
            "this cluster serves something already; stop that with 'serve shutdown', or give the "
            "--address of another one"
        )
    plan = attrs.evolve(fleet.plan, threads=groups.threads)
    serve.start(
        proxy_location="HeadOnly" if is_loopback(fleet.host) else "EveryNode",
        http_options={"host": fleet.host, "port": port},
        logging_config=QUIET,
    )
    try:
        doorbell = beside(ray, Doorbell)
        deployment = serve.deployment(serve.ingress(Door())(Replica)).options(
            name="replica",
            ray_actor_options={"num_cpus": groups.threads},
            max_ongoing_requests=_most_requests(plan),
            graceful_shutdown_timeout_s=fleet.drain + PARTING_SECONDS,
            logging_config=QUIET,
            **_how_many(fleet, groups, plan),
        )
        yield _run(serve, deployment.bind(plan, doorbell)), doorbell
    finally:
        # Ray reports each of its own actors that it ends as one that was lost.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            serve.shutdown()


QUIET = {"log_level": "ERROR", "enable_access_log": False}


def _run(serve: Any, application: Any) -> Any:
    try:
        return serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise LmkitError(f"the replicas did not start: {lines[-1] if lines else error}") from error


def _how_many(fleet: Fleet, groups: Groups, plan: Plan) -> dict[str, Any]:
    if fleet.most_replicas is None:
        return {"num_replicas": groups.workers}
    return {
        "autoscaling_config": {
            "min_replicas": fleet.fewest,
            "initial_replicas": fleet.fewest,
            "max_replicas": fleet.most,
            # One more is wanted where requests would wait for a place in the running batch.
            "target_ongoing_requests": plan.limits.max_rows,
        }
    }


def _most_requests(plan: Plan) -> int:
    """Return how many requests are handed to one replica, which itself refuses what is too much."""
    limits = plan.limits
    return len(plan.bundles) * (limits.max_rows + limits.max_waiting) + OTHER_REQUESTS


def _drain(ray: Any, doorbell: Any, seconds: float) -> None:
    """Let nothing more in, and wait until all who are inside have left, or their time is over."""
    ray.get(doorbell.ring.remote(seconds))
    _until_none(ray, doorbell.deaf, HEARD_SECONDS)
    _until_none(ray, doorbell.emptying, seconds + PARTING_SECONDS)
    time.sleep(HANDED_ON_SECONDS)


def _until_none(ray: Any, count: Any, seconds: float) -> None:
    """Wait until a method of the doorbell counts nobody, so many seconds at most."""
    end = time.monotonic() + seconds
    while ray.get(count.remote()) and time.monotonic() < end:
        time.sleep(0.05)
