"""What tells of the server itself: whether it lives and is ready, its numbers, its description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from lmkit.serve.problems import SERVER, Problem, json_response
from lmkit.serve.schemas import Content
from lmkit.serve.surface import Surface


class Status(Content):
    """How the server is."""

    status: Literal["ok"]


class Document(Content):
    """An OpenAPI document."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


async def health(request: Request, surface: Surface) -> Response:
    """Say that the process answers."""
    return json_response({"status": "ok"})


async def ready(request: Request, surface: Surface) -> Response:
    """Say that the models are there; a server that is stopping, or has lost one, answers 503."""
    lost = [one.name for one in surface.models if not one.engine.is_open]
    if lost:
        raise Problem(
            f"nothing computes for {', '.join(lost)} any more; start the server again",
            status=503,
            code="not_ready",
            kind=SERVER,
        )
    return json_response({"status": "ok"})


async def metrics(request: Request, surface: Surface) -> Response:
    """Tell the numbers of the server, for Prometheus."""
    page, media_type = surface.metrics.page(request.headers.get("accept", ""))
    return Response(page, headers={"content-type": media_type})


async def openapi(request: Request, surface: Surface) -> Response:
    """Tell what this server can be asked, as OpenAPI 3.1."""
    return json_response(surface.document())
