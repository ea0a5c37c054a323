"""What goes wrong, as the client is told: a status, and OpenAI's `{"error": ...}` around the reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Scope

from lmkit.errors import (
    Busy,
    DeadlineExceeded,
    LmkitError,
    PromptTooLong,
    RecordError,
    TaskError,
    TemplateError,
    TokenizerError,
    UnknownName,
    UnknownOption,
)

log = logging.getLogger("lmkit.serve")

INVALID = "invalid_request_error"
SERVER = "server_error"


class Problem(Exception):
    """A request that gets an error for an answer.

    Args:
        message: what happened, what was expected, what to try.
        status: the HTTP status.
        code: a word for programs.
        kind: the class of the error, `type` in OpenAI's words.
        param: the part of the request that is at fault, such as `messages[0].content`.
        headers: what the answer's head tells besides.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        kind: str = INVALID,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def response(self) -> Response:
        """The answer."""
        return json_response(self.body, status=self.status, headers=self.headers)


def json_response(
    content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response that holds some JSON."""
    return Response(
        to_json(content, inf_nan_mode="null", fallback=str),
        status,
        headers,
        media_type="application/json",
    )


def problem_of(error: Exception) -> Problem:
    """Return what a client is told of an error.

    The client's own mistakes are told as they are. What the server did wrong is told in general words:
    its log has the rest.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, PromptTooLong):
        return Problem(error.problem, code="context_length_exceeded")
    if isinstance(error, RecordError):
        return Problem(error.problem, code="invalid_record")
    if isinstance(error, Busy):
        seconds = max(1, math.ceil(error.retry_after))
        return Problem(
            str(error),
            status=429,
            code="busy",
            kind="rate_limit_error",
            headers={"retry-after": str(seconds)},
        )
    if isinstance(error, DeadlineExceeded):
        # OpenAI's client would ask again at once, and wait as long again.
        return Problem(
            str(error),
            status=504,
            code="deadline_exceeded",
            kind="timeout_error",
            headers={"x-should-retry": "false"},
        )
    if isinstance(error, UnknownOption):
        return Problem(str(error), code="unknown_option", param=error.name)
    if isinstance(error, (TaskError, TemplateError, TokenizerError, UnknownName)):
        return Problem(str(error), code="invalid_option")
    if isinstance(error, LmkitError):
        return Problem(str(error), status=500, code="model_error", kind=SERVER)
    return Problem(
        "the server failed at this request; its log says more",
        status=500,
        code="internal_error",
        kind=SERVER,
    )


def log_failure(scope: Scope, error: Exception) -> None:
    """Write into the log at what the server failed, and where; whether it shows words is the log's."""
    facts = {"id": request_id} if (request_id := scope.get("state", {}).get("request_id")) else {}
    log.error("a request failed", exc_info=error, extra={"facts": facts})
