"""What a promise says when it is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmkit.errors import TaskError


class PromiseBroken(TaskError):
    """A task does not do what every task must.

    Attributes:
        task: its name.
        promise: which promise it breaks, a name in `PROMISES`.
        problem: what happened, in one line.
        record: the record with which it happened, or None.
    """

    def __init__(
        self,
        task: str,
        promise: str,
        problem: str,
        *,
        record: Mapping[str, Any] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        shown = {name: fact for name, fact in (facts or {}).items() if fact}
        width = max(map(len, shown), default=0)
        lines = [f"task '{task}' breaks its promise '{promise}': {problem}"]
        for name, fact in shown.items():
            first, *rest = fact.splitlines() or [""]
            lines.append(f"  {name:<{width}}  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in rest]
        super().__init__("\n".join(lines))
        self.task = task
        self.promise = promise
        self.problem = problem
        self.record = record


class Broken(Exception):
    """Raised within a promise; `check_task` makes a `PromiseBroken` of it.

    Args:
        problem: what happened, in one line.
        hint: what to try.
        facts: what to show beside the record, by name.
    """

    def __init__(self, problem: str, hint: str = "", **facts: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.facts = facts


class DoesNotApply(Exception):
    """Raised within a promise that says nothing of such a task; the text says why."""
