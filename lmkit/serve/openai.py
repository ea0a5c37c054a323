"""OpenAI's endpoints: chat completions, completions and the list of models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from starlette.requests import Request
from starlette.responses import Response

from lmkit.batching import Request as Asked
from lmkit.serve.models import Served
from lmkit.serve.openai_answers import ChatWriter, CompletionWriter, Echo, Writer
from lmkit.serve.openai_schemas import ChatRequest, CommonRequest, CompletionRequest
from lmkit.serve.problems import Problem, json_response
from lmkit.serve.records_asked import chat_record, text_record
from lmkit.serve.streaming import EventStream
from lmkit.serve.surface import Surface
from lmkit.serve.validating import read_body

# What makes one request of a prompt, given its options.
Prepare = Callable[..., Asked]


async def chat_completions(request: Request, surface: Surface) -> Response:
    """Answer a conversation."""
    body = read_body(ChatRequest, await request.body())
    served = surface.served(body.model)
    record = chat_record(surface.endpoints[served.name], body.messages)
    if body.top_logprobs is not None and not body.logprobs:
        raise Problem(
            "top_logprobs is set and logprobs is not; set logprobs to true",
            code="conflict",
            param="top_logprobs",
        )
    n_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    prepare = functools.partial(served.engine.prepare, record)
    writer = ChatWriter(body.model)
    return await _answer(request, surface, served, body, [prepare], n_logprobs, writer)


async def completions(request: Request, surface: Surface) -> Response:
    """Answer prompts."""
    body = read_body(CompletionRequest, await request.body())
    served = surface.served(body.model)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Problem(
            "best_of is not supported; leave it out, or set it to n",
            code="unsupported",
            param="best_of",
        )
    if body.echo and body.logprobs is not None:
        raise Problem(
            "echo is not supported with logprobs: the prompt's tokens are not scored",
            code="unsupported",
            param="echo",
        )
    prompts = _prompts(body.prompt)
    prepares = [_prepare(surface, served, prompt) for prompt in prompts]
    echo = None
    if body.echo:
        echo = await surface.desk.prepare(lambda: [_said(served, prompt) for prompt in prompts])
    writer = CompletionWriter(body.model, Echo(echo, body.n or 1))
    return await _answer(request, surface, served, body, prepares, body.logprobs, writer)


async def _answer(
    request: Request,
    surface: Surface,
    served: Served,
    body: CommonRequest,
    prepares: Sequence[Prepare],
    n_logprobs: int | None,
    writer: Writer,
) -> Response:
    """Answer prompts, each `n` times, whole or in pieces."""
    if body.stream_options is not None and not body.stream:
        raise Problem(
            "stream_options is set and stream is not; set stream to true",
            code="conflict",
            param="stream_options",
        )
    count = body.n or 1
    if len(prepares) * count > surface.settings.max_choices:
        raise Problem(
            f"{len(prepares) * count} answers are asked for; one request may ask for "
            f"{surface.settings.max_choices} at the most",
            code="too_many_choices",
            param="n",
        )
    options = _options(surface, served, body)
    more: dict[str, Any] = {
        "options": options,
        "n_logprobs": n_logprobs,
        "logit_bias": body.bias,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "timeout": surface.settings.timeout,
    }

    def make() -> list[Asked]:
        made = (prepare(**more) for prepare in prepares)  # one for all answers to a prompt
        return [choice for asked in made for choice in _choices(asked, count)]

    prepared = await surface.desk.prepare(make)
    streams = bool(body.stream)
    bell = surface.submit(served, prepared, request.receive, streams=streams)
    if streams:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        coming = surface.updates(served, bell)
        events = writer.events(bell.tickets, coming, usage=usage)
        return EventStream(events, bell, surface.problem)
    return json_response(writer.whole(await surface.answers(served, bell), count))


def _choices(asked: Asked, count: int) -> list[Asked]:
    """Return a request as often as its prompt is to be answered, each with a seed of its own."""
    generation = asked.generation
    if generation is None or generation.seed is None:
        return [asked] * count
    seeds = [(generation.seed + place) % (1 << 64) for place in range(count)]
    return [attrs.evolve(asked, generation=generation.override(seed=seed)) for seed in seeds]


def _options(surface: Surface, served: Served, body: CommonRequest) -> dict[str, Any]:
    """Return what of `Generation` a body asks for.

    Raises:
        Problem: two of the names for the answer's length have unlike values, or it is too long.
    """
    options = body.overrides()
    asked = body.limit
    if len(set(asked.values())) > 1:
        told = " and ".join(f"{name} is {value}" for name, value in asked.items())
        raise Problem(f"{told}; set one of them", code="conflict", param=next(iter(asked)))
    if asked:
        options["max_new_tokens"] = next(iter(asked.values()))
    return surface.limited(served, options, next(iter(asked), "max_tokens"))


def _prompts(prompt: Any) -> list[str | list[int]]:
    """Return the prompts of a body: a text, ids, or a list of either."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def _prepare(surface: Surface, served: Served, prompt: str | list[int]) -> Prepare:
    if isinstance(prompt, str):
        record = text_record(surface.endpoints[served.name], prompt)
        return functools.partial(served.engine.prepare, record)
    return functools.partial(served.engine.prepare, prompt)


def _said(served: Served, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)


async def list_models(request: Request, surface: Surface) -> Response:
    """Every model, in OpenAI's form."""
    return json_response({"object": "list", "data": [_card(one) for one in surface.models]})


async def one_model(request: Request, surface: Surface) -> Response:
    """One model, in OpenAI's form."""
    return json_response(_card(surface.served(request.path_params["id"])))


def _card(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "lmkit",
    }
