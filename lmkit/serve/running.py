"""Running a server until it is told to stop: the socket, the signals, and the way out.

The first SIGTERM or SIGINT closes the gate: what is inside goes on, what comes is answered with 503,
and when the house is empty, or the time for that is over, the server ends with 0. A second signal
ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import attrs
import uvicorn

from lmkit.errors import LmkitError
from lmkit.serve.connections import Connection, Patience, sweep
from lmkit.serve.gate import Gate
from lmkit.serve.logs import on_loop_error, on_thread_error
from lmkit.serve.refusing import App

log = logging.getLogger("lmkit.serve")

# Connections that the system keeps for us until we take them.
BACKLOG = 1024
# Connections taken in one turn of the event loop. asyncio takes as many as its backlog, and sees to none of
# them before: a burst would use up all files, and be an error in the log for each that is too many.
TAKEN_AT_ONCE = 8
# Files that the process has open besides connections: models, libraries, pipes; and some turns of the loop,
# for a connection that is closed to make room gives back its file two turns later.
OWN_FILES = 64
KEEP_ALIVE_SECONDS = 30
# After the drain: how long those whose answers were broken off have to be told so.
PARTING_SECONDS = 1


def listen(host: str, port: int) -> socket.socket:
    """Take an address, before models are loaded that nobody could reach.

    Nothing is accepted until `serve` runs. Port 0 takes one that is free.

    Raises:
        LmkitError: the address is taken, is not this machine's, or may not be had.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # A name such as localhost may mean two addresses; what most clients try is the older one.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise LmkitError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; "
            "another --port may be free, and 0 finds one"
        ) from error
    bound.set_inheritable(True)
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address under which a client on this machine finds a server."""
    host, port = bound.getsockname()[:2]
    ip = ipaddress.ip_address(host)
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"http://[{ip}]:{port}" if ip.version == 6 else f"http://{ip}:{port}"


def serve(
    app: App,
    bound: socket.socket,
    *,
    gate: Gate,
    drain: float = 30.0,
    patience: Patience = Patience(),  # noqa: B008 (frozen)
    on_ready: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> int:
    """Serve an application until a signal, and return the exit code.

    Args:
        app: what answers, already guarded.
        bound: the address, from `listen`.
        gate: the one that `app` is guarded with; it is closed when the server is told to stop.
        drain: for how many seconds what is being answered may then go on.
        patience: what a connection may cost.
        on_ready: called when clients can connect.
        on_stop: called, in a thread, when what is being answered is done or its time is over; fails
            what is left.
    """
    config = uvicorn.Config(
        app=cast(Any, app),
        http=cast(Any, functools.partial(Connection, patience=affordable(patience))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=TAKEN_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=PARTING_SECONDS,
    )
    threading.excepthook = on_thread_error
    server = _Server(config, gate=gate, drain=drain, on_ready=on_ready, on_stop=on_stop)
    try:
        server.run(sockets=[bound])
    except SystemExit as error:  # uvicorn's way to say that the application did not start
        raise LmkitError("the server did not start; see the log above") from error
    finally:
        bound.close()
    return 0


def affordable(patience: Patience) -> Patience:
    """Return a patience with no more connections than this process may have files open.

    A server that has no file left for the next connection cannot even turn it away.
    """
    try:
        import resource
    except ImportError:  # not on this system, which has no such bound
        return patience
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return patience
    return attrs.evolve(patience, connections=max(1, min(patience.connections, files - OWN_FILES)))


class _Server(uvicorn.Server):
    """uvicorn's server, with a gate that closes first."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        gate: Gate,
        drain: float,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.gate = gate
        self.drain = drain
        self.on_ready = on_ready
        self.on_stop = on_stop
        self.loop: asyncio.AbstractEventLoop | None = None
        self.work: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(on_loop_error)
        await super().startup(sockets=sockets)
        for bound in sockets or []:
            bound.listen(BACKLOG)  # asyncio has told the system its own
        self.work.append(asyncio.create_task(sweep(self.server_state.connections)))
        if self.gate.open:  # else a signal came first
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is left."""
        for task in self.work:
            task.cancel()
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal, end the process."""
        if not self.gate.open:
            os.write(2, b"stopped at once\n")
            os._exit(128 + sig)
        self.gate.close()
        if self.loop is None:
            self.should_exit = True
        else:
            self.loop.call_soon_threadsafe(self._begin_to_drain, signal.Signals(sig).name)

    def _begin_to_drain(self, name: str) -> None:
        self.work.append(asyncio.create_task(self._drain(name)))

    async def _drain(self, name: str) -> None:
        wait = f", which have {self.drain:g} s" if self.gate.inside else ""
        log.info("%s: stopping; requests inside: %d%s", name, self.gate.inside, wait)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gate.empty(), self.drain)
        if self.gate.inside:
            log.warning("requests broken off after %g s: %d", self.drain, self.gate.inside)
        await asyncio.to_thread(self.on_stop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gate.empty(), PARTING_SECONDS)
        self.should_exit = True
