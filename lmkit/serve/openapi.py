"""OpenAPI: what a server can be asked and what it answers, from the models that check it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from lmkit import __version__
from lmkit.serve.auth import OPEN_PATHS
from lmkit.serve.routes import Operation
from lmkit.serve.schemas import ErrorAnswer
from lmkit.serve.settings import Settings
from lmkit.serve.task_schemas import Endpoint, Prompt, Streams, WritingOptions

_REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "The request is malformed, or asks for what cannot be done; the message says what.",
    401: "The key is missing or wrong.",
    403: "A browser's page of another origin or host may not ask.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    429: "There are too many requests; `Retry-After` says when to ask again.",
    500: "The server failed.",
    503: "The server is stopping.",
    504: "The answer was not there in time.",
}
_OF_BODIES = (400, 408, 413, 415, 429, 500, 504)
_OF_ALL = (401, 403, 503)

Schemas = Mapping[tuple[type[BaseModel], JsonSchemaMode], Mapping[str, Any]]


def document(
    operations: Sequence[Operation], endpoints: Mapping[str, Endpoint], settings: Settings
) -> dict[str, Any]:
    """Return the OpenAPI document of a server.

    Args:
        operations: what can be asked of it; those of tasks are told for each task.
        endpoints: the typed endpoints, by name.
        settings: what the server is called, and whether it wants a key.
    """
    schemas, definitions = models_json_schema(
        _models(operations, endpoints.values()), ref_template=_REF
    )
    components = {"schemas": definitions["$defs"]}
    _name_models(components["schemas"], endpoints)
    paths: dict[str, Any] = {}
    for operation in operations:
        for path, described in _described(operation, endpoints, schemas):
            paths.setdefault(path, {})[operation.method.lower()] = described
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": settings.title,
            "version": __version__,
            "description": "Fine-tuned tasks behind OpenAI's endpoints and typed ones of their own.",
        },
        "paths": paths,
        "components": components,
    }
    if settings.api_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in paths.items():
            for described in methods.values() if path not in OPEN_PATHS else ():
                described["security"] = [{"key": []}]
    return found


def _models(
    operations: Iterable[Operation], endpoints: Iterable[Endpoint]
) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    bodies: list[type[BaseModel]] = [one.body for one in operations if one.body]
    answers: list[type[BaseModel]] = [one.answer for one in operations if one.answer]
    for endpoint in endpoints:
        bodies += [endpoint.record]
        answers += [endpoint.answer]
    bodies += [WritingOptions, Streams]
    answers += [one.streams for one in operations if one.streams]
    answers += [Prompt, ErrorAnswer]
    found: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    found += [(model, "validation") for model in dict.fromkeys(bodies)]
    found += [(model, "serialization") for model in dict.fromkeys(answers)]
    return found


def _name_models(schemas: dict[str, Any], endpoints: Mapping[str, Endpoint]) -> None:
    """Tell which models there are, and leave out what only the queries of tasks need."""
    for request in ("ChatRequest", "CompletionRequest"):
        schemas[request]["properties"]["model"]["enum"] = sorted(endpoints)
    for query in ("WritingOptions", "Streams"):
        schemas.pop(query, None)


def _described(
    operation: Operation, endpoints: Mapping[str, Endpoint], schemas: Schemas
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield the paths of an operation with their descriptions."""
    if not operation.is_task:
        yield operation.path, _operation(operation, operation.body, operation.answer, schemas)
        return
    for name, endpoint in endpoints.items():
        shows = operation.path.endswith("/prompt")
        answer = Prompt if shows else endpoint.answer
        described = _operation(operation, endpoint.record, answer, schemas, of=name)
        task = endpoint.served.task
        described["description"] = f"Task '{name}': {task.description}".rstrip(": ")
        if not shows:
            described["parameters"] = _parameters(endpoint.query)
        yield operation.path.replace("{name}", name), described


def _operation(
    operation: Operation,
    body: type[BaseModel] | None,
    answer: type[BaseModel] | None,
    schemas: Schemas,
    *,
    of: str = "",
) -> dict[str, Any]:
    name = operation.handler.__name__ + (f"_{of}" if of else "")
    content: dict[str, Any] = {operation.media_type: {"schema": {"type": "string"}}}
    if answer is not None:
        content = {operation.media_type: {"schema": schemas[answer, "serialization"]}}
    if operation.streams:
        kinds = (operation.streams, ErrorAnswer)
        events = _events([schemas[kind, "serialization"] for kind in kinds])
        content["text/event-stream"] = {"schema": events}
    described: dict[str, Any] = {
        "operationId": name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": {"200": {"description": "The answer.", "content": content}},
    }
    if body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[body, "validation"]}},
        }
    if "{id}" in operation.path:
        described["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    statuses = {*(_OF_BODIES if body is not None else ()), *_OF_ALL}
    if (body is not None and not operation.is_task) or "{id}" in operation.path:
        statuses.add(404)
    error = {"application/json": {"schema": schemas[ErrorAnswer, "serialization"]}}
    for status in sorted(statuses):
        response: dict[str, Any] = {"description": _ERRORS[status], "content": error}
        if status == 429:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds.",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
        described["responses"][str(status)] = response
    return described


def _events(kinds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each event of a stream is; the last one's data is `[DONE]`."""
    contents = [
        {"type": "string", "contentMediaType": "application/json", "contentSchema": kind}
        for kind in kinds
    ]
    data = {"anyOf": [{"const": "[DONE]"}, *contents]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """Return a query's parameters; what is null in a body is left out of a query."""
    found = []
    for name, schema in query.model_json_schema(ref_template=_REF)["properties"].items():
        own = {key: part for key, part in schema.items() if key not in ("default", "title")}
        description = own.pop("description", "")
        own["anyOf"] = [one for one in own["anyOf"] if one.get("type") != "null"]
        if len(own["anyOf"]) == 1:
            own = own["anyOf"][0]
        parameter = {"name": name, "in": "query", "description": description, "schema": own}
        if own.get("type") == "array":
            parameter |= {"style": "form", "explode": True}
        found.append(parameter)
    return found
