"""How much a request may send and how long it may take, whatever it asks for."""

from __future__ import annotations

import asyncio

from lmkit.serve.browsers import READING
from lmkit.serve.refusing import App, Message, Receive, Scope, Send, header, refuse

# How many bodies of full size are held at once, in all requests together.
FULL_BODIES = 16
# What a request has beyond its own time, to be told that it is over.
GRACE_SECONDS = 15.0


class Bodies:
    """Reads a request's body before the routes see it, within bounds of size and time.

    Args:
        app: what gets the request, its body in one piece.
        max_bytes: the most bytes of one body.
        seconds: the time in which it has to be there.
    """

    def __init__(self, app: App, *, max_bytes: int, seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.held = 0  # bytes of all bodies that are in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is there, or say what is wrong with it."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > self.max_bytes:
            await self._refuse_size(scope, receive, send)
            return
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    whole = await self._read(receive, body)
            except TimeoutError:
                await refuse(
                    scope,
                    receive,
                    send,
                    status=408,
                    message=f"the request's body was not there after {self.seconds:g} seconds",
                    code="body_timeout",
                )
                return
            if not whole:
                return
            if len(body) > self.max_bytes:
                await self._refuse_size(scope, receive, send)
            elif self.held > FULL_BODIES * self.max_bytes:
                await refuse(
                    scope,
                    receive,
                    send,
                    status=429,
                    message="too many large requests are being answered; ask again",
                    kind="rate_limit_error",
                    code="busy",
                    headers=[(b"retry-after", b"1")],
                )
            else:
                await self.app(scope, _replaying(bytes(body), receive), send)
        finally:
            self.held -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Read into `body` until it is whole or too much; say whether the client is still there."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            piece = message.get("body", b"")
            body += piece
            self.held += len(piece)
            if not message.get("more_body", False) or len(body) > self.max_bytes:
                return True
            if self.held > FULL_BODIES * self.max_bytes:
                return True

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse(
            scope,
            receive,
            send,
            status=413,
            message=f"the request's body has more than {self.max_bytes} bytes, which is the most "
            "that this server takes (--max-body)",
            code="body_too_large",
        )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read, and then what comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def bounded(app: App, seconds: float) -> App:
    """Return an application whose answers end, be it that a client reads them too slowly.

    The engine ends a request that takes longer than `seconds` and has its reason told; what is still
    there a while later is cut off.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        over = asyncio.timeout(seconds + GRACE_SECONDS)
        try:
            async with over:
                await app(scope, receive, noted)
        except TimeoutError:
            if not over.expired():  # the application's own
                raise
            if not started:
                await refuse(
                    scope,
                    receive,
                    send,
                    status=504,
                    message=f"there was no answer in {seconds:g} seconds",
                    kind="timeout_error",
                    code="deadline_exceeded",
                    body_is_read=True,
                )

    return run
