"""Values: frozen, checked when built, short in print, and strict about what they are given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

import attrs

from lmkit.errors import UnknownOption

T = TypeVar("T")


@overload
def value(cls: type[T], /) -> type[T]: ...
@overload
def value(*, kw_only: bool = ...) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(attrs.field,)
)
def value(cls: Any = None, /, *, kw_only: bool = True) -> Any:
    """Make a class a frozen attrs class that refuses unknown keywords with the near name.

    Args:
        cls: the class to decorate.
        kw_only: whether its fields are given by keyword only.
    """

    def decorate(plain: type[T]) -> type[T]:
        own_repr = "__repr__" in vars(plain)
        made = attrs.frozen(plain, kw_only=kw_only, repr=False)
        if not own_repr:
            made.__repr__ = _short_repr  # type: ignore[method-assign, assignment]
        made.__init__ = _strict(made, made.__init__)  # type: ignore[misc]
        return made

    return decorate if cls is None else decorate(cls)


def _strict(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        known = [field.alias for field in attrs.fields(cls) if field.init]
        for name in options:
            if name not in known:
                raise UnknownOption(cls.__name__, name, filter(None, known))
        init(self, *args, **options)

    return checked


def _short_repr(self: Any) -> str:
    """Print only what differs from the defaults."""
    parts = []
    for field in attrs.fields(type(self)):
        content = getattr(self, field.name)
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()  # type: ignore[union-attr]
        if field.default is attrs.NOTHING or content != default:
            parts.append(f"{field.name}={content!r}")
    return f"{type(self).__name__}({', '.join(parts)})"
