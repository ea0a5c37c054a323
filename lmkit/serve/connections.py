"""One client's connection: how long it may take over a request's head, and how many there may be.

uvicorn's protocol, which this extends, waits for ever for the rest of a head that has begun, takes
heads of any size, and leaves a connection open for as long as its client does not read what was
last written to it. Each costs an attacker nothing and the server memory or a file descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterable
from typing import Any

import attrs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Not on every system: there a client that has vanished is noticed later, by the kernel's defaults.
_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


@attrs.frozen(kw_only=True)
class Patience:
    """What a connection may cost.

    Attributes:
        connections: the most at once. For one more, the oldest that asks for nothing is closed.
        head_seconds: how long a request's line and headers may take.
        head_bytes: how many bytes they may have.
        message_bytes: how many bytes a whole request may have on the wire, framing included.
        unread_seconds: how long what was sent may stay unacknowledged or unread by the client.
        closing_seconds: how long a connection that was closed may take to hand over its last bytes.
    """

    connections: int = 512
    head_seconds: float = 10.0
    head_bytes: int = 64 << 10
    message_bytes: int = 64 << 20
    unread_seconds: float = 60.0
    closing_seconds: float = 10.0

    def with_bodies(self, most: int) -> Patience:
        """Return one that lets requests through whose bodies have so many bytes, however framed.

        A byte that is a chunk of its own takes six on the wire.
        """
        wire_bytes = self.head_bytes + 8 * most
        return attrs.evolve(self, message_bytes=max(self.message_bytes, wire_bytes))


class Connection(HttpToolsProtocol):
    """A connection that is closed when it costs more than its `patience` allows."""

    def __init__(self, *args: Any, patience: Patience, **named: Any) -> None:
        super().__init__(*args, **named)
        self.patience = patience
        self.since = time.monotonic()  # when it was made, or its latest request began
        self.idle_since = self.since
        self.closing_since: float | None = None
        self.raw_bytes = 0  # of the request that is being read
        self.reads_head = True
        self._message_ended = False

    @property
    def idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Make room for it, or turn it away."""
        others = [other for other in self.connections if isinstance(other, Connection)]
        super().connection_made(transport)
        _watch(transport, self.patience)
        if len(others) >= self.patience.connections:
            idle = [other for other in others if other.idle]
            if idle:
                oldest = min(idle, key=lambda other: other.idle_since)
                oldest.transport.abort()
                self.connections.discard(oldest)
            else:
                self._turn_away(503, "too many connections are open; ask again", retry=True)

    def data_received(self, data: bytes) -> None:
        """Count what a request costs on its way to the parser."""
        if self.transport.is_closing():
            return
        if not self.raw_bytes:
            self.since = time.monotonic()
        super().data_received(data)
        if self._message_ended:  # what is behind it in `data` is too little to matter
            self._message_ended = False
            self.raw_bytes = 0
        else:
            self.raw_bytes += len(data)
        if self.transport.is_closing():
            return
        if self.reads_head and self.raw_bytes > self.patience.head_bytes:
            most = self.patience.head_bytes
            self._turn_away(431, f"the request's line and headers have more than {most} bytes")
        elif self.raw_bytes > self.patience.message_bytes:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """Note that the head is whole."""
        self.reads_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the next byte begins another request."""
        super().on_message_complete()
        self.reads_head = True
        self._message_ended = True

    def on_response_complete(self) -> None:
        """Note that it is idle from now on."""
        self.idle_since = self.since = time.monotonic()
        super().on_response_complete()

    def sweep(self, now: float) -> None:
        """Close it if its time is up; called every second."""
        if self.transport.is_closing():
            if self.closing_since is None:
                self.closing_since = now
            elif now - self.closing_since > self.patience.closing_seconds:
                self.transport.abort()
        elif self.idle and self.reads_head and now - self.since > self.patience.head_seconds:
            if self.raw_bytes:
                self._turn_away(408, "the request's line and headers took too long to come")
            elif self.cycle is None:  # has never asked; uvicorn closes those that have
                self.transport.close()

    def _turn_away(self, status: int, message: str, *, retry: bool = False) -> None:
        reasons = {408: "Request Timeout", 431: "Request Header Fields Too Large"}
        kind = "server_error" if status == 503 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        head = [
            f"HTTP/1.1 {status} {reasons.get(status, 'Service Unavailable')}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 1"] if retry else []),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


def _watch(transport: asyncio.Transport, patience: Patience) -> None:
    """Have the kernel send at once, and notice a client that has vanished, or that reads nothing."""
    line = transport.get_extra_info("socket")
    if line is None:
        return
    with contextlib.suppress(OSError):
        # asyncio does this only where a socket was made with TCP as its protocol, and not its kind's.
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _PROBES:
            if hasattr(socket, name):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            unread = int(patience.unread_seconds * 1000)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread)


async def sweep(connections: Iterable[object], every: float = 1.0) -> None:
    """Look at all connections every so many seconds, for ever."""
    while True:
        await asyncio.sleep(every)
        now = time.monotonic()
        for connection in list(connections):
            if isinstance(connection, Connection):
                connection.sweep(now)
