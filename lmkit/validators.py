"""Checks of single fields; each says the field, the value, and what is expected."""

from __future__ import annotations

from typing import Any

import attrs

from lmkit.errors import TaskError


@attrs.frozen
class _AtLeast:
    least: int

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], content: Any) -> None:
        if isinstance(content, bool) or not isinstance(content, int) or content < self.least:
            raise TaskError(
                f"{attribute.name} is {content!r}; expected a whole number of {self.least} or more"
            )


def at_least(least: int) -> _AtLeast:
    """Accept whole numbers from `least` up."""
    return _AtLeast(least)
