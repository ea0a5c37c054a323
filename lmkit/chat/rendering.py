"""Run a chat template.

It is rendered in jinja2's immutable sandbox by the same code in training and in the runtime, with
what transformers gives to a template (`raise_exception`, `strftime_now`, `tojson`, loop controls,
`{% generation %}`). What of the text an assistant wrote is found out in `lmkit.chat.unrolling`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.chat.escaping import Message, Span
from lmkit.chat.replaying import Replays, follow_joins, following_environment, note_moment, on_plain
from lmkit.errors import ConversationError, TemplateError
from lmkit.tokenizing import Dialect

if TYPE_CHECKING:
    import jinja2

_OPEN, _CLOSE = chr(0xF0000), chr(0xF0001)  # where a {% generation %} block begins and ends

_CLOCK: ContextVar[datetime | None] = ContextVar("clock", default=None)


@contextmanager
def at_time(moment: str) -> Iterator[None]:
    """Let templates that print the date print this one.

    A run's rows and a bundle's golden prompts must come out the same on another day.

    Args:
        moment: a date and time in ISO 8601 form.
    """
    token = _CLOCK.set(datetime.fromisoformat(moment))
    try:
        yield
    finally:
        _CLOCK.reset(token)


def now() -> str:
    """Return the present moment, to the second, as `at_time` takes it."""
    return datetime.now().isoformat(timespec="seconds")


@attrs.frozen
class Written:
    """What a template wrote.

    Attributes:
        text: all of it.
        marks: where its `{% generation %}` blocks stand, each as [start, end) in characters.
    """

    text: str
    marks: tuple[Span, ...] = ()


@attrs.frozen(cache_hash=True)
class Rendering:
    """One template under one tokenizer.

    Attributes:
        source: the template.
        dialect: the tokenizer's control tokens.
        variables: JSON of an object: what else the template is given.
    """

    source: str
    dialect: Dialect
    variables: str = "{}"

    @functools.cached_property
    def marked(self) -> bool:
        """Whether the template says with `{% generation %}` what the assistant wrote."""
        return _compiled(self.source)[1]

    def render(
        self, messages: Sequence[Message], tools: Any = None, *, ask: bool = False
    ) -> Written:
        """Return what the template writes for some messages.

        Args:
            messages: what the template may see; see `lmkit.chat.escaping`.
            tools: likewise, or None.
            ask: whether the next answer is asked for.
        Raises:
            ConversationError: the template refuses the messages or fails on them.
        """
        return without_marks(self._run(messages, tools, ask))

    def _run(self, messages: Sequence[Message], tools: Any, ask: bool) -> str:
        import jinja2

        template = _compiled(self.source)[0]
        try:
            text: str = template.render(
                messages=messages, **self._given, tools=tools, add_generation_prompt=ask
            )
            return text
        except jinja2.TemplateError as error:
            raise ConversationError(
                "", f"the chat template refuses the conversation: {error}"
            ) from error
        except Exception as error:  # a template may divide by zero, and so on
            raise ConversationError(
                "", f"the chat template fails on the conversation: {error}"
            ) from error

    @functools.cached_property
    def plans(self) -> dict[Any, Any]:
        """How it was found to cut conversations, by their shape; see `lmkit.chat.sketching`."""
        return {}

    @functools.cached_property
    def replays(self) -> Replays:
        """What it wrote before, to be written again with other words."""

        def run(**given: Any) -> str:
            template = follow_joins(_compiled(self.source, traced=True)[0])
            return template.render(**given, **self._given)

        return Replays(run, _clock)

    def again(
        self, messages: Sequence[Message], tools: Any, *, ask: bool, key: Any, words: Sequence[str]
    ) -> Written:
        """Return what `render` does, without running the template if it ran on such messages before.

        Args:
            messages: as for `render`.
            tools: likewise.
            ask: likewise.
            key: what is the same in all messages and tools of this shape.
            words: what is not.
        """
        text = self.replays.text(key, words)
        if text is None:
            text = self._run(messages, tools, ask)
            options = {"tools": tools, "add_generation_prompt": ask}
            self.replays.learn(key, messages, words, text, **options)
        return without_marks(text)

    @functools.cached_property
    def _given(self) -> dict[str, Any]:
        return {
            "documents": None,
            "bos_token": self.dialect.bos_token or "",
            "eos_token": self.dialect.eos_token or "",
            **self._variables,
        }

    @functools.cached_property
    def _variables(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.variables)
        return found


def without_marks(text: str) -> Written:
    """Take the `{% generation %}` marks out of a text."""
    if _OPEN not in text:
        return Written(text)
    spans: list[Span] = []
    plain = ""
    for part in re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", text):
        if part.startswith(_OPEN):
            part = part[1:-1]
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return Written(plain, tuple(spans))


@functools.lru_cache(maxsize=64)
def _compiled(source: str, *, traced: bool = False) -> tuple[jinja2.Template, bool]:
    """Return a template, and whether it has `{% generation %}` marks.

    Args:
        source: the template.
        traced: whether texts are to be followed; see `lmkit.chat.replaying`.
    """
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    marked = False

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}`, as transformers has it."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            nonlocal marked
            marked = True
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body)
            return call.set_lineno(line)

        def _mark(self, caller: Callable[[], str]) -> str:
            return _OPEN + caller() + _CLOSE

    # Source: transformers/utils/chat_template_utils.py, _compile_jinja_template: the same switches
    # and helpers, so that a template renders here as it does there.
    options: dict[str, Any] = {
        "trim_blocks": True,
        "lstrip_blocks": True,
        "extensions": [Generation, loopcontrols],
    }
    environment = following_environment(**options) if traced else Sandbox(**options)
    environment.filters["tojson"] = on_plain(_tojson) if traced else _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source), marked
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template is not valid jinja: {error}") from error


def _clock(form: str) -> str:
    return (_CLOCK.get() or datetime.now()).strftime(form)


def _strftime_now(form: str) -> str:
    moment = _clock(form)
    note_moment(form, moment)
    return moment


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _tojson(
    data: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        data, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_PRINTED = re.compile(r"strftime_now\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")


def printed_dates(source: str) -> tuple[str, ...]:
    """Return the dates that a template prints at this moment, as far as its text tells their form.

    A form that is not written out is taken for one to the second.

    >>> with at_time("2026-01-02T03:04:05"):
    ...     printed_dates("{{ strftime_now('%d %b %Y') }}")
    ('02 Jan 2026',)
    """
    forms = [single or double for single, double in _PRINTED.findall(source)]
    if "strftime_now" in re.sub(r"strftime_now\s+is\b", "", _PRINTED.sub("", source)):
        forms.append("%Y-%m-%dT%H:%M:%S")
    moment = _CLOCK.get() or datetime.now()
    return tuple(dict.fromkeys(moment.strftime(form) for form in forms))
