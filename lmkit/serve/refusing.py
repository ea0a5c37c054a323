"""Answers that are given before a route is reached: an error in OpenAI's shape, in plain ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# How long, and how much of, the body of a request that was refused is still read.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request's header, or None; the name is in lower case, as ASGI has them."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    code: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
    body_is_read: bool = False,
) -> None:
    """Answer with an error, read a while what the client still sends, and close the connection.

    A connection that is closed while the client writes is reset, and the client may never see the
    answer. So the answer is sent whole, and its end only when the body has come or time is up.

    Args:
        scope: the request's.
        receive: the request's.
        send: the request's.
        status: the HTTP status.
        message: what happened, what was expected, what to try.
        kind: the class of the error, `type` in OpenAI's words.
        code: a word for programs.
        headers: what the head says besides.
        body_is_read: whether nothing of the request's body is left to read.
    """
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}, ensure_ascii=False).encode()
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not body_is_read:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await _discard(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
