"""A replica: bundles that are open in one process of a cluster, behind the same application as anywhere."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import attrs
from starlette.applications import Starlette

from lmkit.batching import Limits
from lmkit.serve.app import make_app
from lmkit.serve.gate import Gate
from lmkit.serve.guarding import guarded
from lmkit.serve.logs import set_up
from lmkit.serve.models import Models
from lmkit.serve.refusing import App, Receive, Scope, Send
from lmkit.serve.running import PARTING_SECONDS
from lmkit.serve.settings import Settings


@attrs.frozen(kw_only=True)
class Plan:
    """What each replica serves, and how.

    Attributes:
        bundles: names, or None, and folders, as every node has them.
        settings: who may ask, and how much.
        limits: what a bundle's engine may hold, in each replica.
        precision: which of the bundles' precisions; their default ones if None.
        threads: how many cores a replica computes with.
        verify: whether checksums and golden answers are checked before it serves.
        log_format: how its log is written.
    """

    bundles: Sequence[tuple[str | None, str]]
    settings: Settings
    limits: Limits
    precision: str | None
    threads: int
    verify: bool
    log_format: Literal["text", "json"]


class Door(Starlette):
    """What Ray Serve calls for each request: it hands it on to this process's replica.

    It is sent to the replicas before any of them has a model, so it holds nothing itself. It is
    Starlette's for Ray Serve before 2.50 or so, which looks for routes in it to name its metrics.
    """

    inner: App | None = None  # of the process, so of the class

    def __init__(self) -> None:
        super().__init__()
        self.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        assert Door.inner is not None
        await Door.inner(scope, receive, send)


class Replica:
    """The bundles of one process.

    Args:
        plan: what to serve.
        doorbell: the handle of a `Doorbell`.
    """

    def __init__(self, plan: Plan, doorbell: Any) -> None:
        set_up(plan.log_format, log_prompts=plan.settings.log_prompts)
        self._models = Models.open(
            plan.bundles,
            limits=plan.limits,
            precision=plan.precision,
            threads=plan.threads,
            verify=plan.verify,
        )
        self._gate = Gate()
        self._doorbell = doorbell
        self._name = uuid.uuid4().hex
        app = make_app(self._models, settings=plan.settings)
        metrics = app.state.surface.metrics
        Door.inner = guarded(app, plan.settings, gate=self._gate, metrics=metrics)
        threading.Thread(target=self._stop_when_told, name="doorbell", daemon=True).start()

    def names(self) -> list[tuple[str, str]]:
        """Return the bundles' names and folders."""
        return [(one.name, str(one.model.path)) for one in self._models]

    def close(self) -> None:
        """Close the engines: Ray Serve takes this replica away, and has waited for its requests."""
        if hasattr(self, "_models"):  # else they could not be opened
            self._models.close()

    __del__ = close

    def _stop_when_told(self) -> None:
        import ray

        drain = ray.get(self._doorbell.wait.remote(self._name))
        self._gate.close()
        ray.get(self._doorbell.heard.remote(self._name))
        self._wait_until_empty(drain)
        self._models.close()
        self._wait_until_empty(PARTING_SECONDS)
        ray.get(self._doorbell.left.remote(self._name))

    def _wait_until_empty(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._gate.inside and time.monotonic() < end:
            time.sleep(0.02)
