"""The typed endpoints: a record's columns in, the task's answer out."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lmkit.batching import Ticket
from lmkit.serve.columns import record_of
from lmkit.serve.models import Served
from lmkit.serve.news import Bell
from lmkit.serve.problems import Problem, json_response
from lmkit.serve.prompts import shown_prompt
from lmkit.serve.streaming import EventStream, event
from lmkit.serve.surface import Surface
from lmkit.serve.task_schemas import Endpoint, Streams, TaskList, WritingOptions
from lmkit.serve.validating import read_body, read_query


async def list_tasks(request: Request, surface: Surface) -> Response:
    """Every task: what it is asked with, what it answers with, and how it writes."""
    cards = TaskList(tasks=[endpoint.card for endpoint in surface.endpoints.values()])
    return json_response(cards)


async def answer(request: Request, surface: Surface) -> Response:
    """Answer one record, given by its columns."""
    endpoint = _endpoint(request, surface)
    served = endpoint.served
    query = read_query(endpoint.query, request.query_params.multi_items())
    record = record_of(read_body(endpoint.record, await request.body()))
    options = query.overrides() if isinstance(query, WritingOptions) else {}
    options = surface.limited(served, options, "max_new_tokens")
    prepare = functools.partial(
        served.engine.prepare, record, options=options, timeout=surface.settings.timeout
    )
    prepared = await surface.desk.prepare(prepare)
    streams = bool(query.stream)
    bell = surface.submit(served, [prepared], request.receive, streams=streams)
    if streams:
        return EventStream(_events(surface, served, bell), bell, surface.problem)
    await surface.answers(served, bell)
    return json_response(_answered(served, bell.tickets[0]))


async def prompt(request: Request, surface: Surface) -> Response:
    """Show what the model is given for a record; the model itself is not run."""
    endpoint = _endpoint(request, surface)
    read_query(Streams, request.query_params.multi_items())
    record = record_of(read_body(endpoint.record, await request.body()))
    shown = await surface.desk.prepare(functools.partial(shown_prompt, endpoint.served, record))
    return json_response(shown)


def _endpoint(request: Request, surface: Surface) -> Endpoint:
    try:
        served = surface.served(request.path_params["name"])
    except Problem as problem:
        problem.code, problem.param = "task_not_found", "name"
        raise
    return surface.endpoints[served.name]


async def _events(surface: Surface, served: Served, bell: Bell) -> AsyncGenerator[bytes, None]:
    async with aclosing(surface.updates(served, bell)) as coming:
        async for _, update in coming:
            if update.text:
                yield event({"text": update.text})
    ticket = bell.tickets[0]
    yield event({**_answered(served, ticket), "timing": _timing(ticket)})


def _answered(served: Served, ticket: Ticket) -> dict[str, Any]:
    found = ticket.answer
    assert found is not None  # else its error was raised before
    usage = found.usage
    whole = {
        "task": served.name,
        "value": found.value,
        "text": found.text,
        "finish_reason": found.finish_reason,
        "usage": usage_of(usage.prompt_tokens, usage.completion_tokens),
    }
    if found.probabilities is not None:
        whole["probabilities"] = dict(found.probabilities)
    return whole


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return what a request cost, as JSON tells it."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _timing(ticket: Ticket) -> dict[str, float | None]:
    """Return where the time went, in seconds."""
    assert ticket.answer is not None
    finished = ticket.finished_at or ticket.queued_at
    first = ticket.first_token_at or finished
    behind = ticket.answer.usage.completion_tokens - 1
    rate = behind / (finished - first) if behind > 0 and finished > first else None
    return {
        "queued": (ticket.started_at or finished) - ticket.queued_at,
        "first_token": first - ticket.queued_at,
        "total": finished - ticket.queued_at,
        "tokens_per_second": rate,
    }
