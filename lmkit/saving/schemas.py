"""Versions of the files that outlive the program that wrote them, `lmkit.json` and `task.json`.

Each says its `schema`, a whole number that is raised whenever an older lmkit could misread what is
written. Each older schema has a step, which turns a file's content into the next one's; the steps are
taken one after another, so that the code that reads knows today's form only. docs/compatibility.md is
the promise that stands behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

Content = dict[str, Any]


@attrs.frozen
class Schema:
    """The form of a file: its version, and the way there from each older one.

    Attributes:
        newest: the version that is written.
        steps: for each older version that is read, what turns its content into the next version's. A
            step is given what stands in the file, unchecked, and leaves alone what is wrong with it.
    """

    newest: int
    steps: Mapping[int, Callable[[Content], Content]]

    @property
    def oldest(self) -> int:
        """The oldest version that is read."""
        return min(self.steps, default=self.newest)

    def refusal(self, version: int, writer: Any) -> str | None:
        """Say why a version is not read and what to do, or nothing if it is.

        Args:
            version: what the file says.
            writer: the version of lmkit that wrote it, as the file says.
        """
        if version > self.newest:
            return (
                f"has schema {version}, written by lmkit {writer}; this lmkit reads up to schema "
                f"{self.newest}: pip install --upgrade lmkit-tasks"
            )
        if version < self.oldest:
            return f"has schema {version}, which is not read"
        return None

    def upgraded(self, content: Content, version: int) -> Content:
        """Return the content of a file of any version that is read in the newest form."""
        for step in range(version, self.newest):
            content = self.steps[step](content)
        return content


def unchanged(content: Content) -> Content:
    """Return the content as it is: the step to a version that only has more to say."""
    return content


def advice(writer: Any) -> str:
    """Say what to do about a file that is not understood, if a later lmkit wrote it; else nothing.

    A later version may use words that an earlier one does not know, without another schema.
    """
    from lmkit import __version__

    if isinstance(writer, str) and _numbers(writer) > _numbers(__version__):
        return (
            f"; lmkit {writer} wrote it, and this is lmkit {__version__}: "
            "pip install --upgrade lmkit-tasks"
        )
    return ""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
