"""Texts that remember which words they are made of, while a chat template runs on them.

What happens to a `Traced` is written down instead of done: joined, it becomes *parts*; asked something,
it answers truthfully, and the question becomes a *guard*. `lmkit.chat.replaying` does the same again to
other words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

# What a `Traced` is to code that does not know it: where a text has it, a word got lost.
_LEAK = chr(0x10F000)


class Untraceable(Exception):
    """The template does something with a word that cannot be followed."""


@attrs.frozen
class Call:
    """A text that a method of `str` made of others, or one of the texts that it made."""

    receiver: tuple[Part, ...]
    method: str
    arguments: tuple[Any, ...]
    item: int | None = None


@attrs.frozen
class Argument:
    """A traced text that is given to a method."""

    parts: tuple[Part, ...]


# A literal, the index of a word, or what was made of words.
Place = int | Call
Part = str | Place


@attrs.frozen
class Guard:
    """What a template asked of a text, and the answer that its way depends on."""

    question: Call
    answer: Any


@attrs.define
class Trace:
    """What happens while a template runs on some words."""

    words: Sequence[str]
    guards: list[Guard] = attrs.field(factory=list)
    moments: list[tuple[str, str]] = attrs.field(factory=list)


@attrs.frozen
class Replay:
    """What a template wrote, for other words of the same shape."""

    parts: tuple[Part, ...]
    guards: tuple[Guard, ...]
    moments: tuple[tuple[str, str], ...]

    def text(self, words: Sequence[str], clock: Callable[[str], str]) -> str | None:
        """Return the text with these words; None if the template would take another way."""
        if not self.fits(words, clock):
            return None
        literals, places = self.template
        pieces = [*literals]
        try:
            pieces[1::2] = words[: len(places)] if self._in_order else put_in(places, words)
        except (IndexError, ValueError):  # which a method of `str` raises for these words
            return None
        return "".join(pieces)

    def fits(self, words: Sequence[str], clock: Callable[[str], str]) -> bool:
        """Say whether the template gets the same answers from these words."""
        try:
            return all(
                _called(guard.question, words) == guard.answer for guard in self.guards
            ) and all(clock(form) == moment for form, moment in self.moments)
        except (IndexError, ValueError):
            return False

    @functools.cached_property
    def template(self) -> tuple[tuple[str, ...], tuple[Place, ...]]:
        """The literals, an empty one in every second place, and what is to be put there."""
        literals, places = [""], []
        for part in self.parts:
            if isinstance(part, str):
                literals[-1] += part
            else:
                literals += ["", ""]
                places.append(part)
        return tuple(literals), tuple(places)

    @functools.cached_property
    def _in_order(self) -> bool:
        """Whether it is the words as they come that are put in."""
        return self.template[1] == tuple(range(len(self.template[1])))


def put_in(places: Iterable[Place], words: Sequence[str]) -> list[str]:
    """Return what stands in some places for these words."""
    return [words[place] if type(place) is int else _called(place, words) for place in places]  # type: ignore[arg-type]


def _filled(parts: Iterable[Part], words: Sequence[str]) -> str:
    return "".join(
        [
            part
            if type(part) is str
            else words[part]
            if type(part) is int
            else _called(part, words)  # type: ignore[arg-type]
            for part in parts
        ]
    )


def _called(call: Call, words: Sequence[str]) -> Any:
    arguments = [_filled(a.parts, words) if type(a) is Argument else a for a in call.arguments]
    made = getattr(_filled(call.receiver, words), call.method)(*arguments)
    if call.item is None:
        return len(made) if type(made) in (list, tuple) else made
    return made[call.item]


class Traced(str):
    """A text that knows of which words it is made."""

    _parts: tuple[Part, ...]
    _trace: Trace

    __hash__ = None  # type: ignore[assignment]

    def _call(self, method: str, arguments: Sequence[Any]) -> Call:
        kept = tuple(Argument(a._parts) if isinstance(a, Traced) else a for a in arguments)
        if not all(map(_known, kept)):
            raise Untraceable(method)
        return Call(self._parts, method, kept)

    def _asked(self, call: Call) -> Any:
        """Return a fact about the text, on which what follows depends."""
        answer = _called(call, self._trace.words)
        self._trace.guards.append(Guard(call, answer))
        return answer

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        if any(type(part) in (str, int) for part in self._parts):
            return True  # words are not empty, and literals neither
        return bool(self._asked(self._call("__len__", ())))

    def __add__(self, other: str) -> str:
        return joined((self, other))

    def __radd__(self, other: str) -> str:
        return joined((other, self))

    def __iter__(self) -> Any:
        raise Untraceable("iteration")
        yield


def _known(argument: Any) -> bool:
    """Say whether a method's argument is the same whatever the words are, or followed."""
    if type(argument) is tuple:
        return all(type(part) is str for part in argument)
    if type(argument) is slice:
        return all(map(_known, (argument.start, argument.stop, argument.step)))
    return argument is None or type(argument) in (str, int, bool, Argument)


class Length:
    """How long a traced text is: nothing but whether it is empty can be asked of it."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: Traced) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Untraceable(name)

    def __repr__(self) -> str:
        raise Untraceable("length")

    def __bool__(self) -> bool:
        return bool(self._text)

    def __gt__(self, other: object) -> bool:
        return self != other

    def __eq__(self, other: object) -> bool:
        if other != 0:
            raise Untraceable("length")
        return not self._text


def traced(trace: Trace, parts: tuple[Part, ...]) -> Traced:
    """Return a text made of parts."""
    text = Traced.__new__(Traced, _LEAK)
    text._parts, text._trace = parts, trace
    return text


def joined(texts: Iterable[Any]) -> str:
    """Return texts joined, remembering words: what `"".join` is while a template is traced."""
    texts = [*texts]
    known = next((text for text in texts if isinstance(text, Traced)), None)
    if known is None:
        return "".join(texts)
    parts: list[Part] = []
    for text in texts:
        for part in text._parts if isinstance(text, Traced) else (text,):
            if part != "":
                parts.append(part)
    return traced(known._trace, tuple(parts))


def _making(name: str) -> Any:
    def method(self: Traced, *arguments: Any) -> Any:
        if name == "__getitem__" and not isinstance(arguments[0], (int, slice)):
            raise TypeError("string indices must be integers")
        call = self._call(name, arguments)
        try:
            _called(call, self._trace.words)
        except Exception as error:
            raise Untraceable(name) from error
        return traced(self._trace, (call,))

    return method


def _asking(name: str) -> Any:
    def method(self: Traced, *arguments: Any) -> Any:
        if name in ("__eq__", "__ne__") and not isinstance(arguments[0], str):
            return NotImplemented
        return self._asked(self._call(name, arguments))

    return method


def _splitting(name: str) -> Any:
    def method(self: Traced, *arguments: Any) -> Any:
        call = self._call(name, arguments)
        count = self._asked(call)
        return [traced(self._trace, (attrs.evolve(call, item=i),)) for i in range(count)]

    return method


def _refusing(name: str) -> Any:
    def method(self: Traced, *arguments: Any, **options: Any) -> Any:
        raise Untraceable(name)

    return method


_MAKING = (
    *("__getitem__", "__mul__", "__rmul__", "capitalize", "casefold", "lower", "lstrip", "replace"),
    *("removeprefix", "removesuffix", "rstrip", "strip", "swapcase", "title", "upper"),
)
_ASKING = (
    *("__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "count"),
    *("endswith", "find", "isalnum", "isalpha", "isdigit", "islower", "isnumeric", "isspace"),
    *("istitle", "isupper", "rfind", "startswith"),
)
_SPLITTING = ("partition", "rpartition", "rsplit", "split", "splitlines")
_PYTHONS = (
    *("__class__", "__delattr__", "__dir__", "__doc__", "__getattribute__", "__getnewargs__"),
    *("__getstate__", "__init__", "__init_subclass__", "__new__", "__reduce__", "__reduce_ex__"),
    *("__setattr__", "__subclasshook__", "__hash__", "__str__"),
)
for _name in {*dir(str), "__rmod__"}:
    if _name in _MAKING:
        setattr(Traced, _name, _making(_name))
    elif _name in _ASKING:
        setattr(Traced, _name, _asking(_name))
    elif _name in _SPLITTING:
        setattr(Traced, _name, _splitting(_name))
    elif _name not in _PYTHONS and _name not in ("__add__", "__iter__"):
        setattr(Traced, _name, _refusing(_name))


def replay_of(text: str, trace: Trace) -> Replay | None:
    """Return what a traced template wrote; None if words got lost on the way."""
    parts = text._parts if isinstance(text, Traced) else (text,)
    if any(isinstance(part, str) and _LEAK in part for part in parts):
        return None
    guards: list[Guard] = []
    for guard in trace.guards:
        if guard not in guards:
            guards.append(guard)
    return Replay(parts, tuple(guards), tuple(dict.fromkeys(trace.moments)))
