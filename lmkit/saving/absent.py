"""A loss, metric or transform whose plugin is not installed: it is kept as it was written, unused.

Answering asks none of them, so a bundle or a run that names one is read, answers, and can be written
again. Whatever does ask one, such as `train` or `evaluate`, is told what to install.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import attrs

from lmkit.errors import PluginError
from lmkit.family import Family


@attrs.frozen(kw_only=True)
class Needed:
    """A plugin that the task's classes come from.

    Attributes:
        plugin: the plugin's name, which stands before the colon in `plugin:Class`.
        distribution: what to install to get it; None for a plugin file.
        version: the distribution's version.
    """

    plugin: str
    distribution: str | None
    version: str | None

    @property
    def requirement(self) -> str:
        """The distribution and its version, as a shell hands them to pip."""
        return f"'{self.distribution}{'==' + self.version if self.version else ''}'"

    @property
    def source(self) -> str:
        """How to name what it comes from."""
        if self.distribution is None:
            return f"the file {self.plugin}.py"
        return f"{self.distribution} {self.version}" if self.version else self.distribution


@attrs.frozen
class Absent:
    """Stands where a part would, and is written as the part was.

    Attributes:
        text: the part's JSON.
        kind: what it is, such as `metric`.
        advice: why it is not there, and what to do.
        needed: the plugin that has it, where that is known.
    """

    text: str
    kind: str = attrs.field(eq=False)
    advice: str = attrs.field(eq=False)
    needed: Needed | None = attrs.field(default=None, eq=False)

    families = frozenset(Family)  # nobody knows which, and it measures nothing

    @classmethod
    def of(cls, content: Mapping[str, Any], kind: str, reason: Exception) -> Absent:
        """Return what stands for a part that cannot be read."""
        return cls(json.dumps(content, ensure_ascii=False), kind, str(reason))

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def content(self) -> dict[str, Any]:
        """The part's JSON."""
        content: dict[str, Any] = json.loads(self.text)
        return content

    @property
    def name(self) -> str:
        """What it is called in JSON: a class, or a transform's function."""
        content = self.content
        return str(content.get("function", content["type"]))

    def check_ready(self) -> None:
        """Refuse, as a metric, before any record is answered."""
        self._refuse()

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Refuse, as a metric."""
        self._refuse()

    def prepare(self, tokenizer: Any) -> Any:
        """Refuse, as a loss."""
        self._refuse()

    def apply(self, row: Any) -> Any:
        """Refuse, as a transform."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PluginError(self.advice)
