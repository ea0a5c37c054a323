"""Checks that fields of values share, with one wording: what it is, and what was expected.

They are attrs validators, and the converters that go with them. A boolean is no number here,
although Python says so: `top_k=True` is a mistake. An int is a float, and a numpy scalar is the
Python number it holds, so that every value can become JSON.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any, SupportsFloat, SupportsIndex, cast

import attrs

from lmkit.errors import TaskError


@attrs.frozen
class Check:
    """An attrs validator that raises `TaskError` with the field, its value and the expectation.

    Attributes:
        expected: completes the sentence "top_k is -1; expected ...".
        holds: says whether a value is fit; it is called with anything.
        shows: puts an unfit value into words.
    """

    expected: str
    holds: Callable[[Any], bool]
    shows: Callable[[Any], str] = repr

    def __call__(self, instance: Any, attribute: Any, given: Any) -> None:
        """Raise `TaskError` unless `given` is fit."""
        if not self.holds(given):
            raise TaskError(f"{attribute.name} is {self.shows(given)}; expected {self.expected}")


def _plainly(given: object) -> str:
    """Return a number as its author wrote it: `as_float` made -1.0 of a -1."""
    return repr(given).removesuffix(".0") if isinstance(given, float) else repr(given)


def at_least(least: int, note: str = "") -> Check:
    """Check for an int of `least` or more; `note` says what a special value means."""
    return Check(
        f"a whole number of {least} or more" + (f", {note}" if note else ""),
        lambda given: _is_whole(given) and given >= least,
    )


def number(kind: str, within: Callable[[float], bool], note: str = "") -> Check:
    """Check for a finite number that is `within` its range; `kind` puts the range into words."""
    return Check(
        kind + (f", {note}" if note else ""),
        lambda given: _is_number(given) and math.isfinite(given) and within(given),
        _plainly,
    )


def optional(check: Check) -> Check:
    """Allow None besides what `check` allows."""
    return Check(f"{check.expected}, or None", lambda given: given is None or check.holds(given))


FLAG = Check("True or False", lambda given: isinstance(given, bool))
FRACTION = number("a number from 0 to 1", lambda given: 0 <= given <= 1)
POSITIVE = number("a number above 0", lambda given: given > 0)
TEXT = Check("a string that is not empty", lambda given: isinstance(given, str) and given != "")
TEXTS = Check(
    "strings, none of them empty",
    lambda given: (
        isinstance(given, tuple) and all(isinstance(text, str) and text for text in given)
    ),
)


def as_int(given: SupportsIndex) -> int:
    """Turn a numpy integer into an int; leave anything else for the validator to judge.

    A converter runs before the validator, so it must neither fail nor mend what is wrong. What it
    says of its argument is for type checkers, which take a field for what its converter takes.
    """
    return int(given) if _is_whole(given) else cast("int", given)


def as_int_or_none(given: SupportsIndex | None) -> int | None:
    """Turn a numpy integer into an int, as `as_int` does, where None means something too."""
    return None if given is None else as_int(given)


def as_float(given: SupportsFloat) -> float:
    """Turn an int or a numpy number into a float; leave anything else for the validator."""
    return float(given) if _is_number(given) else cast("float", given)


def as_texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """Turn one string into a tuple of it and a list into a tuple; leave anything else as it is.

    >>> as_texts("###"), as_texts(["a", "b"])
    (('###',), ('a', 'b'))
    """
    if isinstance(given, str):
        return (given,)
    return tuple(given) if isinstance(given, Iterable) else given


def _is_whole(given: object) -> bool:
    return isinstance(given, numbers.Integral) and not isinstance(given, bool)


def _is_number(given: object) -> bool:
    return isinstance(given, numbers.Real) and not isinstance(given, bool)
