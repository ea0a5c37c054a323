"""What stands before the routes: log, metrics, other origins, gate, own pages, key, JSON, body, time.

Log and metrics are outermost, so that they have whatever is refused. A key is asked for before a byte of
the body is read.
"""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware

from lmkit.serve.auth import keyed
from lmkit.serve.browsers import only_json, only_own_pages
from lmkit.serve.gate import Gate
from lmkit.serve.limits import Bodies, bounded
from lmkit.serve.logs import Logged
from lmkit.serve.metrics import Counted, Metrics
from lmkit.serve.refusing import App
from lmkit.serve.settings import Settings


def guarded(
    app: App, settings: Settings, *, gate: Gate | None = None, metrics: Metrics | None = None
) -> App:
    """Return an application that lets through to `app` what the settings allow.

    Args:
        app: the routes, any ASGI application.
        settings: who may ask, how much, and what is logged.
        gate: what counts the requests and closes when the server stops; one of its own if None.
        metrics: where answers are counted, refusals among them; nowhere if None.
    """
    gate = Gate() if gate is None else gate
    app = bounded(app, settings.timeout)
    app = Bodies(app, max_bytes=settings.max_body_bytes, seconds=settings.body_timeout)
    app = only_json(app)
    if settings.api_keys:
        app = keyed(app, settings.api_keys)
    elif settings.hosts is not None:
        app = only_own_pages(app, hosts=settings.hosts, origins=settings.cors_origins)
    app = gate.before(app)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    if metrics is not None:
        app = Counted(app, metrics)
    return Logged(app, log_prompts=settings.log_prompts)
