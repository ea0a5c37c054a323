"""Stream: server-sent events in plain ASGI, sent as fast as the client reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lmkit.serve.asking import HungUp
from lmkit.serve.news import Bell
from lmkit.serve.problems import Problem, log_failure, problem_of

DONE = b"data: [DONE]\n\n"


def event(content: Any) -> bytes:
    r"""Return one event that holds some JSON.

    >>> event({"text": "네"}).decode()
    'data: {"text":"네"}\n\n'
    """
    return b"data: " + to_json(content, inf_nan_mode="null", fallback=str) + b"\n\n"


class EventStream(Response):
    """A response whose events are made while it is sent.

    An error that comes after the first of them is told in an event of its own, `{"error": ...}`.

    Args:
        events: the events.
        bell: what they are made of; closed in any case, also where nothing was sent.
        problem: returns what a client is told of an error.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        bell: Bell,
        problem: Callable[[Exception], Problem] = problem_of,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._events = events
        self._bell = bell
        self._problem = problem
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            async with aclosing(self._events) as events:
                await send(start)
                try:
                    async for data in events:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                except HungUp:
                    return
                except Exception as error:
                    problem = self._problem(error)
                    if problem.status == 500:
                        log_failure(scope, error)
                    told = event(problem.body)
                    await send({"type": "http.response.body", "body": told, "more_body": True})
                await send({"type": "http.response.body", "body": DONE, "more_body": False})
        finally:
            self._bell.close()
