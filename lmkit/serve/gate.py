"""The gate: counts the requests that are in the house, and takes no more when the server stops."""

from __future__ import annotations

import asyncio

from lmkit.serve.refusing import App, Receive, Scope, Send, refuse

RETRY_AFTER = b"5"


class Gate:
    """Open until the server is told to stop; then only what is inside goes on.

    `GET /ready` answers 503 from then on, so that a load balancer sends nothing more, and so does
    whatever else asks for work. `/health` and `/metrics` go on answering until the end.

    Attributes:
        open: whether new requests are let in.
        inside: how many requests have been let in and not been answered whole.
    """

    def __init__(self) -> None:
        self.open = True
        self.inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def close(self) -> None:
        """Let nothing in from now on."""
        self.open = False

    async def empty(self) -> None:
        """Wait until nothing is inside."""
        await self._empty.wait()

    def before(self, app: App) -> App:
        """Return an application that passes the gate on its way to `app`."""

        async def through(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in ("/health", "/metrics"):
                await app(scope, receive, send)
            elif not self.open:
                await refuse(
                    scope,
                    receive,
                    send,
                    status=503,
                    message="the server is stopping; ask again, and another one may answer",
                    kind="server_error",
                    code="stopping",
                    headers=[(b"retry-after", RETRY_AFTER)],
                )
            else:
                self.inside += 1
                self._empty.clear()
                try:
                    await app(scope, receive, send)
                finally:
                    self.inside -= 1
                    if not self.inside:
                        self._empty.set()

        return through
