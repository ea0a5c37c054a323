"""Count what a server does, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmkit.batching import Stats, Ticket
from lmkit.serve.models import Models

ROUTE = "lmkit.route"  # where a scope says which route it took
HUNG_UP = 499  # nginx's word for a client that went away before it was answered
_OTHER = "other"  # no route at all: a path as it was sent would let anybody add a series

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_NEXT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_GAUGES = {
    "rows": "Requests that are read or written at the moment.",
    "waiting": "Requests that wait for a row.",
    "kv_bytes_used": "Bytes that keys and values take.",
    "kv_bytes_most": "Bytes that keys and values may take.",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of all prompts that were begun.",
    "prefix_tokens": "Tokens of prompts that were found as read already.",
    "completion_tokens": "Tokens that were written.",
    "finished": "Requests that were answered.",
    "cancelled": "Requests that nobody wanted any more.",
    "failed": "Requests that ended in an error, those out of time among them.",
    "steps": "Passes of the model that wrote a token of each row.",
}


class Metrics:
    """The numbers of one server, each server's its own.

    Args:
        models: whose engines are asked for their numbers when the page is read.
    """

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Engines(models))
        self._requests = Counter(
            "lmkit_http_requests",
            "Requests that were answered, streams when they ended.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "lmkit_http_request_seconds",
            "From a request's head to the end of its answer.",
            ("route",),
            buckets=_WHOLE,
            registry=self.registry,
        )
        self._queued = self._histogram("lmkit_queue_seconds", "The wait for a row.", buckets=_FIRST)
        self._first = self._histogram(
            "lmkit_time_to_first_token_seconds",
            "From a request's submission to its first token.",
            buckets=_FIRST,
        )
        self._next = self._histogram(
            "lmkit_time_per_output_token_seconds",
            "Between the tokens of an answer, the mean of each.",
            buckets=_NEXT,
        )

    def _histogram(self, name: str, says: str, *, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, says, ("model",), buckets=tuple(buckets), registry=self.registry)

    def answered(self, model: str, ticket: Ticket) -> None:
        """Count a ticket that is done."""
        if ticket.started_at is not None:
            self._queued.labels(model).observe(ticket.started_at - ticket.queued_at)
        if ticket.first_token_at is None:
            return
        self._first.labels(model).observe(ticket.first_token_at - ticket.queued_at)
        if ticket.answer is not None and ticket.finished_at is not None:
            between = ticket.answer.usage.completion_tokens - 1
            if between > 0:
                took = ticket.finished_at - ticket.first_token_at
                self._next.labels(model).observe(took / between)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request whose answer has ended."""
        self._requests.labels(route, method, status).inc()
        self._seconds.labels(route).observe(seconds)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page in the form that is asked for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class Counted:
    """An application whose answers are counted by route and status.

    Args:
        app: what answers.
        metrics: where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = HUNG_UP

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = scope.get(ROUTE, _OTHER)
            method = scope["method"] if route != _OTHER else _OTHER
            self._metrics.request(route, method, status, time.perf_counter() - began)


class _Engines(Collector):
    """The engines' own numbers, read when they are asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        stats: dict[str, Stats] = {one.name: one.engine.stats() for one in self._models}
        for name, says in _GAUGES.items():
            gauge = GaugeMetricFamily(f"lmkit_{name}", says, labels=["model"])
            for model, own in stats.items():
                gauge.add_metric([model], getattr(own, name))
            yield gauge
        for name, says in _COUNTERS.items():
            counter = CounterMetricFamily(f"lmkit_{name}", says, labels=["model"])
            for model, own in stats.items():
                counter.add_metric([model], getattr(own, name))
            yield counter
