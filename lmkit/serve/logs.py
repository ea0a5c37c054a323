"""The log: one line for each request, as text or JSON, and never a word of what was asked or answered.

An error's message may hold what it is about (a record's column, a piece of a prompt), so an error that
nobody expected is logged by its kind and by the lines of code it came through. With `log_prompts`
the messages, the requests' bodies and the answers are logged too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from lmkit.serve.refusing import App, Message, Receive, Scope, Send, header, refuse

log = logging.getLogger("lmkit.serve")

LogFormat = Literal["text", "json"]
LOGGERS = ("lmkit", "uvicorn", "asyncio")
# What is asked every few seconds by machines, and worth a line only where it fails.
POLLED = ("/health", "/ready", "/metrics")
LONGEST_PATH = 200
LONGEST_TEXT = 64 << 10
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


def set_up(log_format: LogFormat, *, log_prompts: bool, stream: TextIO | None = None) -> None:
    """Send the server's log to a stream, standard error if not said.

    Args:
        log_format: `text` for people, or `json`: one object a line, for programs.
        log_prompts: whether messages of errors are shown, which may hold what was asked.
        stream: where the lines go.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_Lines(log_format, log_prompts=log_prompts))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING if name != "lmkit" else logging.INFO)


class _Lines(logging.Formatter):
    """A line for each record, and below it where an error came from."""

    def __init__(self, log_format: LogFormat, *, log_prompts: bool) -> None:
        super().__init__()
        self.log_format = log_format
        self.log_prompts = log_prompts

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        when = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
        facts: dict[str, Any] = dict(getattr(record, "facts", {}))
        error = record.exc_info[1] if record.exc_info else None
        trace = told(error, with_message=self.log_prompts) if error is not None else ""
        if self.log_format == "json":
            line = {"time": when, "level": record.levelname.lower()}
            line |= {"message": record.getMessage(), **facts}
            return json.dumps(line | ({"error": trace} if trace else {}), ensure_ascii=False)
        shown = " ".join(
            f"{name}={json.dumps(fact, ensure_ascii=False) if isinstance(fact, str) else fact}"
            for name, fact in facts.items()
            if name not in _IN_MESSAGE
        )
        line_of_text = f"{when} {record.levelname:<7} {record.getMessage()} {shown}".rstrip()
        return f"{line_of_text}\n{trace}" if trace else line_of_text


# What the message of a request's line says already.
_IN_MESSAGE = ("method", "path", "status", "ms")


def told(error: BaseException, *, with_message: bool) -> str:
    """Return an error's traceback, and its message only if that is wanted.

    >>> print(told(ValueError("what somebody asked"), with_message=False))
    ValueError
    """
    if with_message:
        return "".join(traceback.format_exception(error)).rstrip()
    lines: list[str] = []
    before: BaseException | None = error
    while before is not None:
        frames = traceback.format_list(traceback.extract_tb(before.__traceback__))
        lines.insert(0, "".join([*frames, type(before).__qualname__]))
        before = before.__cause__ or (None if before.__suppress_context__ else before.__context__)
    return "\nwhich led to\n".join(lines)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong outside of any request; asyncio's own words show an error's message."""
    log.error("%s", context.get("message", "an error"), exc_info=context.get("exception"))


def on_thread_error(args: threading.ExceptHookArgs) -> None:
    """Log what ended a thread; Python's own words show an error's message."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else "a thread"
        log.error("%s ended", name, exc_info=args.exc_value)


class Logged:
    """Writes a line for each request, and answers those that fail for a reason nobody expected.

    Each request has an id, the client's own `X-Request-ID` if it sent a fit one. It is in the line, in
    the answer's head, and in `scope["state"]["request_id"]`.

    Args:
        app: what answers.
        log_prompts: write the bodies of requests and answers too.
    """

    def __init__(self, app: App, *, log_prompts: bool) -> None:
        self.app = app
        self.log_prompts = log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and write the line when that is done."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(scope, receive, send, keep=LONGEST_TEXT if self.log_prompts else 0)
        try:
            await self.app(scope, seen.receive, seen.send)
        except Exception as error:
            log.error("a request failed", exc_info=error, extra={"facts": {"id": seen.id}})
            seen.failed = True
            if seen.status is None:
                await refuse(
                    scope,
                    seen.receive,
                    seen.send,
                    status=500,
                    message="the server failed at this request; its log says more, under the id "
                    f"{seen.id}",
                    kind="server_error",
                    code="internal_error",
                    body_is_read=seen.body_is_read,
                )
        finally:
            _write_line(seen, log_prompts=self.log_prompts)


class _Seen:
    """What passes between a client and the application, and what is noted of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, keep: int) -> None:
        given = header(scope, b"x-request-id") or b""
        self.id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.id
        self.scope = scope
        self.keep = keep
        self.began = time.perf_counter()
        self.status: int | None = None
        self.whole = False
        self.failed = False
        self.body_is_read = False
        self.sent_bytes = 0
        self.request = bytearray()
        self.answer = bytearray()
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """Pass on what the client sends."""
        message = await self._receive()
        self.body_is_read = not message.get("more_body", False)
        if self.keep:
            self.request += message.get("body", b"")[: max(0, self.keep - len(self.request))]
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the client is sent."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.sent_bytes += len(body)
            if self.keep:
                self.answer += body[: max(0, self.keep - len(self.answer))]
        await self._send(message)
        if message["type"] == "http.response.body":
            self.whole = not message.get("more_body", False)


def _write_line(seen: _Seen, *, log_prompts: bool) -> None:
    scope = seen.scope
    path = bytes(scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    path = path.encode("unicode_escape").decode()[:LONGEST_PATH]
    status = 499 if seen.status is None else seen.status  # 499: it hung up before it was answered
    ms = round((time.perf_counter() - seen.began) * 1000)
    facts: dict[str, Any] = {"method": scope["method"], "path": path, "status": status, "ms": ms}
    facts["bytes"] = seen.sent_bytes
    if scope.get("client"):
        facts["client"] = scope["client"][0]
    facts["id"] = seen.id
    if not seen.whole:
        facts["ended"] = "failed" if seen.failed else "broken off"
    if log_prompts:
        facts["request"] = seen.request.decode("utf-8", "replace")
        facts["answer"] = seen.answer.decode("utf-8", "replace")
    level = logging.WARNING if status >= 500 or status == 429 else logging.INFO
    if scope["path"] in POLLED and status < 400:
        level = logging.DEBUG
    log.log(level, "%s %s %d %d ms", scope["method"], path, status, ms, extra={"facts": facts})
