"""Values: frozen, checked when built, short in print, and strict about what they are given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from lmkit.errors import UnknownOption

__all__ = ["value"]

T = TypeVar("T")


def _value(cls: Any = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a frozen attrs class that refuses unknown keywords with the near name.

    attrs alone would raise a bare TypeError. `repr` leaves out what equals its default. A class's
    own `__init__` or `__repr__` stays as it is.

    Args:
        cls: the class to decorate.
        kw_only: whether its fields are given by keyword only.

    >>> @value(kw_only=True)
    ... class Paper:
    ...     size: str = "a4"
    ...     sheets: int = 1
    >>> Paper(sheets=3)
    Paper(sheets=3)
    >>> Paper(sheet=3)
    Traceback (most recent call last):
    lmkit.errors.UnknownOption: no option of Paper named 'sheet'
      close to: sheets
      known: sheets, size
    """

    def decorate(plain: type[T]) -> type[T]:
        own = vars(plain)
        made: Any = attrs.frozen(plain, kw_only=kw_only, repr=False)
        if "__repr__" not in own:
            made.__repr__ = _short_repr
        if "__init__" not in own:
            made.__init__ = _strict(made, made.__init__)
        return cast("type[T]", made)

    return decorate if cls is None else decorate(cls)


if TYPE_CHECKING:
    # To a type checker a value is what attrs.frozen makes; only attrs' own name tells it so.
    from attrs import frozen as value
else:
    value = _value


def _strict(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    known = frozenset(str(field.alias) for field in attrs.fields(cls) if field.init)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                raise UnknownOption(cls.__name__, name, known)
        init(self, *args, **options)

    return checked


def _short_repr(self: Any) -> str:
    """Print only what differs from the defaults."""
    parts = []
    for field in attrs.fields(type(self)):
        content = getattr(self, field.name)
        default: Any = field.default
        if hasattr(default, "takes_self"):  # an attrs.Factory, which mypy knows as a function only
            default = default.factory(self) if default.takes_self else default.factory()
        if field.repr and content != default:
            text = field.repr(content) if callable(field.repr) else repr(content)
            parts.append(f"{field.alias}={text}")
    return f"{type(self).__name__}({', '.join(parts)})"
