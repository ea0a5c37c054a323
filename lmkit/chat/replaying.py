"""Render conversations of one shape again without running the template.

A data set has thousands of conversations in which the same roles follow each other; only their words
differ, and most templates do nothing with words but write them. So a template is run once with words
that remember where they came from (`Traced`), and what it did is written down: the text with places
for the words (*parts*), and what it asked of the words on the way (*guards*), such as whether one has
`</think>` in it. Another conversation of that shape whose words give the same answers has that text
with its own words put in.

Whatever cannot be followed, a word's letters one by one for example, is not replayed: the template runs.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from lmkit.chat.escaping import Message
from lmkit.chat.tracing import Length, Replay, Trace, Traced, Untraceable, joined, replay_of, traced

if TYPE_CHECKING:
    import jinja2

_MOST = 4096  # shapes that are remembered
_MOST_WAYS = 8  # that a template may take for one shape
# Filters that do nothing with a text, or what `Traced` can follow.
_FOLLOWED = (
    *("capitalize", "d", "default", "first", "items", "last", "list", "lower", "map", "reject"),
    *("rejectattr", "reverse", "select", "selectattr", "string", "upper"),
)
# Tests that ask a `Traced` and a `Length`, and those that may know a `Length` for what it is.
_COMPARING = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "le"),
    *("lessthan", "lt", "ne", "defined", "none", "undefined"),
)
_TELLING = (
    *("boolean", "callable", "false", "float", "integer", "iterable", "lower", "mapping"),
    *("number", "string", "true", "upper"),
)

_SCOPES = ("_loop_vars", "_block_vars")  # which jinja2 hands to every function

_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """Let a template's questions for the date be written down in a trace."""
    token = _TRACE.set(trace)
    try:
        yield
    finally:
        _TRACE.reset(token)


def note_moment(form: str, moment: str) -> None:
    """Write down a date that a template asks for, if it is traced."""
    trace = _TRACE.get()
    if trace is not None:
        trace.moments.append((form, moment))


class Replays:
    """What one template wrote for conversations, by their shape.

    Args:
        run: runs the traced template on messages and other values.
        clock: writes the present moment in a form, as the template's `strftime_now`.
    """

    def __init__(self, run: Callable[..., str], clock: Callable[[str], str]) -> None:
        self._run, self._clock = run, clock
        self._numbers: dict[Any, int] = {}
        self._fresh = itertools.count()
        self._known: dict[Any, list[Replay] | None] = {}

    def shape(self, message: Message) -> tuple[int, tuple[str, ...]]:
        """Return a number for the shape of a message, and its words."""
        shape, words = shape_of(message)
        number = self._numbers.get(shape)
        if number is None:
            if len(self._numbers) >= _MOST:
                self._numbers.clear()
            number = self._numbers[shape] = next(self._fresh)
        return number, words

    def way(self, key: Any, words: Sequence[str]) -> Replay | None:
        """Return what the template does for these words; None if it is not known."""
        ways = self._known.get(key) or ()
        return next((replay for replay in ways if self.fits(replay, words)), None)

    def fits(self, replay: Replay, words: Sequence[str]) -> bool:
        """Say whether the template does for these words what it did before."""
        return replay.fits(words, self._clock)

    def text(self, key: Any, words: Sequence[str]) -> str | None:
        """Return the text for a key's shapes with these words; None if it is not known."""
        for replay in self._known.get(key) or ():
            text = replay.text(words, self._clock)
            if text is not None:
                return text
        return None

    def learn(
        self, key: Any, messages: Sequence[Message], words: Sequence[str], text: str, **options: Any
    ) -> None:
        """Follow the template on a conversation, from the second time on that its shape is seen.

        Args:
            key: what the text depends on besides the words.
            messages: what was rendered.
            words: theirs, in order.
            text: what was written.
            options: what else the template was given.
        """
        if len(self._known) >= _MOST:
            self._known.clear()
        if key not in self._known:
            self._known[key] = []
            return
        ways = self._known[key]
        if ways is None:
            return
        trace = Trace(words)
        try:
            with tracing(trace):
                found = self._run(messages=traced_messages(messages, trace), **options)
        except Exception:  # whatever it is, the template itself has rendered this
            self._known[key] = None
            return
        replay = replay_of(found, trace)
        if replay is None or len(ways) >= _MOST_WAYS or replay.text(words, self._clock) != text:
            self._known[key] = None
            return
        ways.append(replay)


def shape_of(message: Message) -> tuple[Any, tuple[str, ...]]:
    """Return what of a message is the same in every one of its shape, and its words."""
    words: list[str] = []
    shape = tuple(
        (key, part) if key == "role" else (key, _shape(part, key == "content", words))
        for key, part in message.items()
    )
    return shape, tuple(words)


def _shape(part: Any, deep: bool, words: list[str]) -> Any:
    if isinstance(part, str) and part:
        words.append(part)
        return True
    if deep and isinstance(part, list):
        return tuple(_shape(inner, deep, words) for inner in part)
    if deep and isinstance(part, dict):
        return tuple((key, _shape(inner, key == "text", words)) for key, inner in part.items())
    return json.dumps(part)


def traced_messages(messages: Sequence[Message], trace: Trace) -> list[Message]:
    """Return messages with their words traced, numbered as `shape_of` yields them."""
    numbers = iter(range(len(trace.words)))

    def replaced(part: Any, deep: bool) -> Any:
        if isinstance(part, str) and part:
            return traced(trace, (next(numbers),))
        if deep and isinstance(part, list):
            return [replaced(inner, deep) for inner in part]
        if deep and isinstance(part, dict):
            return {key: replaced(inner, key == "text") for key, inner in part.items()}
        return part

    return [
        {
            key: part if key == "role" else replaced(part, key == "content")
            for key, part in message.items()
        }
        for message in messages
    ]


def following_environment(**options: Any) -> jinja2.Environment:
    """Return a sandbox in which texts are followed wherever a template takes them."""
    import jinja2
    from jinja2.compiler import CodeGenerator
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generator(CodeGenerator):
        """Compiles `in`, which Python does not tell the left side of."""

        def visit_Compare(self, node: Any, frame: Any) -> None:  # noqa: N802 - jinja2's name
            operators = [operand.op for operand in node.ops]
            if not {"in", "notin"} & set(operators):
                super().visit_Compare(node, frame)
                return
            if len(operators) > 1:
                raise Untraceable("in")
            self.write("(not " if operators == ["notin"] else "(")
            self.write("environment.contains(")
            self.visit(node.expr, frame)
            self.write(", ")
            self.visit(node.ops[0].expr, frame)
            self.write("))")

    class Following(ImmutableSandboxedEnvironment):
        code_generator_class = Generator
        intercepted_binops = frozenset("%")
        concat = staticmethod(joined)

        def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
            takes_all = isinstance(called, (Macro, type)) or isinstance(
                getattr(called, "__self__", None), (Traced, jinja2.ext.Extension)
            )
            given = [part for name, part in kwargs.items() if name not in _SCOPES]
            if not takes_all and not _plain([*args, *given]):
                raise Untraceable("call")
            return super().call(context, called, *args, **kwargs)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if not _plain([left, right]):
                raise Untraceable(operator)
            return super().call_binop(context, operator, left, right)

        def getitem(self, obj: Any, argument: Any) -> Any:
            if not _plain(argument):  # jinja2 takes what it raises for a missing item
                raise Untraceable("getitem")
            return super().getitem(obj, argument)

        def contains(self, item: Any, container: Any) -> bool:
            return _contains(item, container)

    environment = Following(**options)
    for name, function in list(environment.filters.items()):
        if name not in _FOLLOWED:
            environment.filters[name] = _on_plain(function)
    for name, function in list(environment.tests.items()):
        if name not in _COMPARING:
            environment.tests[name] = (
                _on_texts(function) if name in _TELLING else _on_plain(function)
            )
    environment.filters["trim"] = _trim
    environment.filters["replace"] = _replace
    environment.filters["length"] = environment.filters["count"] = _length
    environment.filters["random"] = environment.globals["lipsum"] = _by_chance
    environment.tests["in"] = _contains
    environment.tests["sequence"] = _is_sequence
    return environment


def follow_joins(template: jinja2.Template) -> jinja2.Template:
    """Let a compiled template's `~` keep texts traced."""
    template.root_render_func.__globals__["str_join"] = lambda texts: joined(map(str, texts))
    return template


def on_plain(function: Any) -> Any:
    """Return a filter that raises `Untraceable` for all but plain values."""
    return _on_plain(function)


def _on_plain(function: Any) -> Any:
    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        given = arguments[1:] if hasattr(function, "jinja_pass_arg") else arguments
        if not _plain([*given, *options.values()]):
            raise Untraceable(str(function))
        return function(*arguments, **options)

    return checked


def _on_texts(function: Any) -> Any:
    @functools.wraps(function)
    def checked(value: Any) -> Any:
        if isinstance(value, Length):
            raise Untraceable(str(function))
        return function(value)

    return checked


def _plain(part: Any) -> bool:
    """Say whether a value is JSON in which no text is traced."""
    if isinstance(part, Mapping):
        return all(_plain(inner) for inner in part.values())
    if isinstance(part, (list, tuple)):
        return all(map(_plain, part))
    if type(part) is slice:
        return _plain((part.start, part.stop, part.step))
    return part is None or type(part) in (str, int, float, bool)


def _contains(item: Any, container: Any) -> bool:
    if isinstance(item, Traced) and type(container) is str:
        raise Untraceable("in")
    return item in container


def _is_sequence(value: Any) -> bool:
    from jinja2.tests import test_sequence

    return isinstance(value, Traced) or test_sequence(value)


def _trim(value: Any, chars: str | None = None) -> Any:
    if not isinstance(value, Traced) and isinstance(chars, Traced):
        raise Untraceable("trim")
    return (value if isinstance(value, Traced) else str(value)).strip(chars)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    if not isinstance(value, Traced) and not _plain([value, old, new]):
        raise Untraceable("replace")
    text = value if isinstance(value, Traced) else str(value)
    return text.replace(str(old), str(new), -1 if count is None else count)


def _length(value: Any) -> Any:
    return Length(value) if isinstance(value, Traced) else len(value)


def _by_chance(*arguments: Any, **options: Any) -> Any:
    raise Untraceable("chance")
