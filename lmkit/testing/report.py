"""What a check found: which promises were kept, how long each took, and what was left out."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Outcome:
    """One promise that was not broken.

    Attributes:
        promise: its name.
        seconds: how long it took.
        skipped: why it was left out; blank where it was kept.
        lacking: whether it was left out because packages are not installed.
    """

    promise: str
    seconds: float
    skipped: str = ""
    lacking: bool = False


@attrs.frozen
class Report:
    """What `check_task` returns.

    Attributes:
        task: the task's name.
        outcomes: one for each promise, in order.
    """

    task: str
    outcomes: tuple[Outcome, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the promises that were checked and kept."""
        return tuple(outcome.promise for outcome in self.outcomes if not outcome.skipped)

    @property
    def skipped(self) -> dict[str, str]:
        """Why other promises were left out, by their names."""
        return {found.promise: found.skipped for found in self.outcomes if found.skipped}

    @property
    def seconds(self) -> float:
        """How long all of them took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def __str__(self) -> str:
        width = max((len(found.promise) for found in self.outcomes), default=0)
        lines = [f"task '{self.task}' keeps {len(self.kept)} promises ({self.seconds:.1f} s)"]
        lines += [
            f"  {found.promise:<{width}}  "
            + (f"skipped: {found.skipped}" if found.skipped else f"{found.seconds:5.2f} s")
            for found in self.outcomes
        ]
        return "\n".join(lines)
