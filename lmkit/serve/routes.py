"""Routes: every operation of the surface in one table, from which the router and OpenAPI are made."""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable

import attrs
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lmkit.serve import openai, probes, tasks
from lmkit.serve.asking import HungUp
from lmkit.serve.metrics import HUNG_UP, ROUTE
from lmkit.serve.openai_schemas import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from lmkit.serve.problems import problem_of
from lmkit.serve.surface import Surface
from lmkit.serve.task_schemas import TaskList

log = logging.getLogger("lmkit.serve")

Handler = Callable[[Request, Surface], Awaitable[Response]]


@attrs.frozen(kw_only=True)
class Operation:
    """One operation.

    Attributes:
        method: the HTTP method.
        path: its path, with parameters in braces.
        handler: what answers it; its docstring is the summary.
        tag: the group that it belongs to.
        body: what the body must be, or None for no body.
        answer: what is answered, or None for what is no JSON.
        media_type: of the answer.
        streams: whether it may answer in events.
        is_task: whether the body and the answer are each task's own.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    streams: bool = False
    is_task: bool = False

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return (inspect.getdoc(self.handler) or "").partition("\n")[0]

    def route(self, surface: Surface) -> Route:
        """Return the route that answers it."""
        return Route(self.path, functools.partial(_handle, self, surface), methods=[self.method])


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler=openai.chat_completions,
        tag="openai",
        body=ChatRequest,
        answer=ChatCompletion,
        streams=True,
    ),
    Operation(
        method="POST",
        path="/v1/completions",
        handler=openai.completions,
        tag="openai",
        body=CompletionRequest,
        answer=Completion,
        streams=True,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        handler=openai.list_models,
        tag="openai",
        answer=ModelList,
    ),
    Operation(
        method="GET",
        path="/v1/models/{id}",
        handler=openai.one_model,
        tag="openai",
        answer=ModelCard,
    ),
    Operation(
        method="GET", path="/v1/tasks", handler=tasks.list_tasks, tag="tasks", answer=TaskList
    ),
    Operation(
        method="POST",
        path="/v1/tasks/{name}",
        handler=tasks.answer,
        tag="tasks",
        streams=True,
        is_task=True,
    ),
    Operation(
        method="POST",
        path="/v1/tasks/{name}/prompt",
        handler=tasks.prompt,
        tag="tasks",
        is_task=True,
    ),
    Operation(
        method="GET", path="/health", handler=probes.health, tag="server", answer=probes.Status
    ),
    Operation(
        method="GET", path="/ready", handler=probes.ready, tag="server", answer=probes.Status
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=probes.metrics,
        tag="server",
        media_type="text/plain",
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        handler=probes.openapi,
        tag="server",
        answer=probes.Document,
    ),
)


async def _handle(operation: Operation, surface: Surface, request: Request) -> Response:
    """Answer a request, with an error in OpenAI's shape if need be."""
    request.scope[ROUTE] = operation.path
    try:
        return await operation.handler(request, surface)
    except (HungUp, ClientDisconnect):
        return Response(status_code=HUNG_UP)
    except Exception as error:
        problem = problem_of(error)
        if problem.status == 500:
            log_failure(request, error, says=surface.settings.log_prompts)
        return problem.response


def log_failure(request: Request, error: Exception, *, says: bool) -> None:
    """Write into the log where the server failed.

    Args:
        request: what it failed at.
        error: the failure.
        says: whether the error's own words may be written, which may quote what was asked.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    words = f": {error}" if says else ""
    log.error(
        "%s %s failed with %s%s\n%s",
        request.method,
        request.scope.get(ROUTE, request.url.path),
        type(error).__name__,
        words,
        frames,
    )
