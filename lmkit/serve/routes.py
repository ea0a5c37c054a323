"""Routes: every operation of the surface in one table, from which the router and OpenAPI are made."""

from __future__ import annotations

import functools
import inspect
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
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from lmkit.serve.problems import log_failure
from lmkit.serve.surface import Surface
from lmkit.serve.task_schemas import TaskEvent, TaskList

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
        streams: what an event holds, where it can answer in events.
        is_task: whether the body and the answer are each task's own.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    streams: type[BaseModel] | None = None
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
        streams=ChatChunk,
    ),
    Operation(
        method="POST",
        path="/v1/completions",
        handler=openai.completions,
        tag="openai",
        body=CompletionRequest,
        answer=Completion,
        streams=Completion,
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
        streams=TaskEvent,
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
        problem = surface.problem(error)
        if problem.status == 500:
            log_failure(request.scope, error)
        return problem.response
