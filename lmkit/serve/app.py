"""The application: every route over some models, as plain ASGI."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lmkit.serve import playground
from lmkit.serve.asking import Desk
from lmkit.serve.metrics import Metrics
from lmkit.serve.models import Models
from lmkit.serve.openapi import document
from lmkit.serve.problems import Problem, problem_of
from lmkit.serve.routes import OPERATIONS
from lmkit.serve.settings import Settings
from lmkit.serve.surface import Surface
from lmkit.serve.task_schemas import Endpoint


def make_app(models: Models, *, settings: Settings | None = None) -> Starlette:
    """Return the application that answers with some models.

    Nothing is guarded, logged or counted here: keys, hosts, sizes and slow clients are
    `lmkit.serve.guarding`'s, which wraps it. `app.state.surface` has its parts.

    Args:
        models: what answers; whoever opened them closes them.
        settings: what is allowed; the defaults if None.
    """
    settings = Settings() if settings is None else settings
    endpoints = {one.name: Endpoint.of(one) for one in models}
    metrics = Metrics(models)
    surface = Surface(
        models=models,
        settings=settings,
        desk=Desk(models.news),
        metrics=metrics,
        endpoints=endpoints,
        document=functools.cache(lambda: document(OPERATIONS, endpoints, settings)),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        surface.desk.close()

    app = Starlette(
        routes=[
            *(operation.route(surface) for operation in OPERATIONS),
            *(playground.routes(settings.title) if settings.playground else ()),
        ],
        exception_handlers={HTTPException: _told},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.surface = surface
    return app


async def _told(request: Request, error: Exception) -> Response:
    """Tell in OpenAI's shape what the router refuses: an unknown path, or a method."""
    assert isinstance(error, HTTPException)
    # The path of `request.url` is read anew, with a host that may be anything.
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = Problem(
            f"{path} takes {allowed or 'another method'}, not {request.method}",
            status=405,
            code="method_not_allowed",
            headers=error.headers,
        )
    elif error.status_code == 404:
        problem = Problem(
            f"there is nothing at {path}; GET /openapi.json tells what there is",
            status=404,
            code="not_found",
        )
    else:
        problem = problem_of(error)
    return problem.response
