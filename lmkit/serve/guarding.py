"""What stands before the routes, in order: the log, the gate, the browser's rules, the key, the body."""

from __future__ import annotations

from lmkit.serve.gate import Gate
from lmkit.serve.refusing import App
from lmkit.serve.settings import Settings


def guarded(app: App, settings: Settings, *, gate: Gate | None = None) -> App:
    """Return an application that lets through to `app` what the settings allow.

    Args:
        app: the routes, any ASGI application.
        settings: who may ask, how much, and what is logged.
        gate: what counts the requests and closes when the server stops; one of its own if None.
    """
    gate = Gate() if gate is None else gate
    return gate.before(app)
