"""What a new plugin is made of: a family, and which parts are its own."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from lmkit.errors import TaskError, UnknownName

FAMILIES = ("causal", "masked", "seq2seq", "labels", "chat")
PARTS = ("formatter", "collator", "decoder", "loss", "metric", "command")

# What no task of a family can have, and why.
_UNFIT = {
    "masked with metric": "a masked task is measured by its loss, and asked nothing to be scored",
    "chat with formatter": "a chat is written by its chat template; write one in a .jinja file, and "
    "name it in the generated task: Chat(template=...)",
}


def _in_order(parts: Iterable[str]) -> tuple[str, ...]:
    given = list(parts)
    for part in given:
        if part not in PARTS:
            raise UnknownName("part", part, PARTS)
    return tuple(part for part in PARTS if part in given)


def _unfit(family: str, part: str) -> str | None:
    return _UNFIT.get(f"{family} with {part}")


@attrs.frozen
class Variant:
    """One of the plugins that can be made.

    Attributes:
        family: how the model reads a row, and of what kind its answers are; one of `FAMILIES`.
        parts: which parts are the plugin's own, some of `PARTS`, in any order.
    Raises:
        UnknownName: there is no such family or part.
        TaskError: a task of the family cannot have one of the parts; the text says why.

    >>> Variant("labels", ["metric", "decoder"])
    Variant(family='labels', parts=('decoder', 'metric'))
    """

    family: str = attrs.field(default="causal")
    parts: tuple[str, ...] = attrs.field(default=(), converter=_in_order)

    def __attrs_post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UnknownName("family", self.family, FAMILIES)
        for part in self.parts:
            if reason := _unfit(self.family, part):
                raise TaskError(
                    f"a {self.family} plugin has no {part} of its own: {reason}; leave '{part}' out"
                )


def variants() -> list[Variant]:
    """Return every family with no part of its own, with each one, and with all that it can have."""
    found = []
    for family in FAMILIES:
        fit = [part for part in PARTS if not _unfit(family, part)]
        found += [Variant(family, parts) for parts in ([], *([part] for part in fit), fit)]
    return found
