"""Read bodies and queries as their models, and say in plain words where they are none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from lmkit.errors import near
from lmkit.serve.problems import Problem
from lmkit.serve.schemas import LISTS, TEXTS

Model = TypeVar("Model", bound=BaseModel)

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_MOST_LOOKED_AT = 100
# Mistakes of a list whose items fit, so of the union's member that was meant.
_SIZES = ("too_long", "too_short")
_MOST_TOLD = 5  # mistakes of one request that its answer names


def read_body(model: type[Model], body: bytes) -> Model:
    """Return a request's body as a model.

    Raises:
        Problem: it is no JSON, or not what the model asks for; the text says where.
    """
    try:
        return cast(Model, model.model_validate_json(body))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            reason = found[0]["msg"].removeprefix("Invalid JSON: ")
            raise Problem(f"the body is not valid JSON: {reason}", code="invalid_json") from None
        raise _problem(model, found, from_json(body, allow_inf_nan=True), "field") from None


def read_query(model: type[Model], items: Iterable[tuple[str, str]]) -> Model:
    """Return a query as a model; what is a list is there once for each of its parts.

    Raises:
        Problem: as for `read_body`.
    """
    given: dict[str, Any] = {}
    for name, text in items:
        given.setdefault(name, []).append(_as_json(text) if name not in TEXTS else text)
    query = {
        name: parts[0] if len(parts) == 1 and name not in LISTS else parts
        for name, parts in given.items()
    }
    try:
        return cast(Model, model.model_validate(query))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise _problem(model, found, query, "query parameter") from None


def _as_json(text: str) -> Any:
    """Return a number or a truth value for its text; anything else stays text."""
    if text in ("true", "false"):
        return text == "true"
    return from_json(text) if _NUMBER.fullmatch(text) else text


def _problem(
    model: type[BaseModel], errors: Sequence[ErrorDetails], given: Any, what: str
) -> Problem:
    """Return what is told of some mistakes; those of one place are told in one sentence."""
    places: dict[str, list[ErrorDetails]] = {}
    for error in errors[:_MOST_LOOKED_AT]:
        places.setdefault(_place(error["loc"], given, missing=_is_missing(error)), []).append(error)
    sized = [place for place, of in places.items() if any(e["type"] in _SIZES for e in of)]
    places = {
        place: of
        for place, of in places.items()
        if place in sized or not (_goes_deeper(place, places) or _is_inside(place, sized))
    }
    told = [_told(model, place, of, what) for place, of in list(places.items())[:_MOST_TOLD]]
    if len(places) > _MOST_TOLD:
        told.append(f"and {len(places) - _MOST_TOLD} more")
    first = next(iter(places))
    code = "invalid_field"
    if places[first][0]["type"] == "extra_forbidden":
        code = "unknown_field"
    elif _unsupported(model, first):
        code = "unsupported"
    return Problem("; ".join(told), code=code, param=first or None)


def _unsupported(model: type[BaseModel], place: str) -> str:
    """Return why a field cannot be served, in its description's words; "" where it can."""
    field = model.model_fields.get(re.split(r"[.\[]", place)[0])
    says = (field.description or "") if field is not None else ""
    return says if says.startswith("Not supported") else ""


def _goes_deeper(place: str, places: Iterable[str]) -> bool:
    """Say whether another mistake is inside of this one's place.

    Of a union each member is told why it does not fit; the one that fits best goes the furthest.
    """
    return any(place and _is_inside(other, [place]) for other in places)


def _is_inside(place: str, others: Iterable[str]) -> bool:
    return any(place.startswith((f"{other}.", f"{other}[")) for other in others)


def _is_missing(error: ErrorDetails) -> bool:
    return error["type"] == "missing"


def _place(location: Sequence[int | str], given: Any, *, missing: bool) -> str:
    """Return where a mistake is, such as `messages[0].content`.

    A location has the names of a union's members in it as well, which the body does not know.
    """
    place = ""
    for step in location:
        if isinstance(step, int) and isinstance(given, list) and step < len(given):
            given = given[step]
            place += f"[{step}]"
        elif isinstance(given, dict) and (step in given or (missing and step is location[-1])):
            given = given.get(step)
            place += f".{step}" if place else str(step)
    return place


def _told(model: type[BaseModel], place: str, errors: Sequence[ErrorDetails], what: str) -> str:
    kind = errors[0]["type"]
    if kind == "extra_forbidden":
        fields = model.model_fields.items()
        names = [field.alias or name for name, field in fields]
        known = names if "." not in place and "[" not in place else []
        close = near(place, known)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        return f"there is no {what} '{place}'{hint}"
    if kind == "missing":
        return f"'{place}' is missing"
    if says := _unsupported(model, place):
        return f"'{place}' is {says[0].lower()}{says[1:].rstrip('.')}"
    said = dict.fromkeys(error["msg"].replace("Input should be", "should be") for error in errors)
    words = ", or ".join(said).replace(", or should be", ", or")
    return f"'{place}' {words}" if place else f"the body {words}"
