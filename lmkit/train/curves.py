"""Curves: what a run's `metrics.jsonl` says, step by step, and what is to be made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.train.folder import METRICS_FILE
from lmkit.values import value

# Of a loss that is measured on few batches and so jumps, only a rise above this share is one.
RISE = 0.01


@value(kw_only=True)
class Saying:
    """A sentence about a run.

    Attributes:
        level: `warning`, or `note`.
        text: the sentence; `{name}` stands where a figure belongs.
        figures: the figures, as they are shown.
    """

    level: str
    text: str
    figures: Mapping[str, str] = attrs.field(factory=dict)


Steps = dict[int, dict[str, float]]
Curve = list[tuple[int, float]]


def read_steps(folder: Path) -> Steps:
    """Return the figures that a run logged, by step; a line that a kill cut off is left out."""
    file = folder / METRICS_FILE
    found: Steps = {}
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        try:
            entry: dict[str, Any] = json.loads(line)
            step = int(entry.pop("step"))
        except (json.JSONDecodeError, KeyError):
            continue
        figures = {name: float(x) for name, x in entry.items() if isinstance(x, (int, float))}
        found.setdefault(step, {}).update(figures)
    return dict(sorted(found.items()))


def curve(steps: Steps, name: str) -> Curve:
    """Return one figure's steps and values."""
    return [(step, figures[name]) for step, figures in steps.items() if name in figures]


def sayings(steps: Steps, tasks: Sequence[str] = ()) -> list[Saying]:
    """Say whether a run learned, and whether it went on too long.

    Args:
        steps: its figures.
        tasks: of a mixture its tasks' names.
    """
    said = [*_of_training(curve(steps, "loss")), *_of_gap(steps)]
    for task in tasks:
        said += [
            attrs.evolve(
                saying, text=_OF_TASK[saying.text], figures={**saying.figures, "task": task}
            )
            for saying in _of_training(curve(steps, f"loss_{task}"))
            if saying.text in _OF_TASK
        ]
    return said


_NOT_FALLEN = (
    "The training loss did not fall: it was {first} at first and is {last} now. Try another learning "
    "rate, or more steps, and look at what is learned below."
)
_OF_TASK = {
    _NOT_FALLEN: "The training loss of {task} did not fall: it was {first} at first and is {last} now.",
}


def _of_training(losses: Curve) -> list[Saying]:
    if any(not math.isfinite(loss) for _, loss in losses):
        step = next(step for step, loss in losses if not math.isfinite(loss))
        return [
            Saying(
                level="warning",
                text="The training loss is no number from step {step} on. Try a lower learning rate.",
                figures={"step": f"{step:,}"},
            )
        ]
    if len(losses) < 2:
        return [
            Saying(
                level="note",
                text="The loss was logged too seldom to see whether it fell; --set logging_steps=1 "
                "logs each step.",
            )
        ]
    few = max(
        1, len(losses) // 4
    )  # one batch says little, so some first and some last are compared
    first = sum(loss for _, loss in losses[:few]) / few
    last = sum(loss for _, loss in losses[-few:]) / few
    figures = {"first": f"{first:.3f}", "last": f"{last:.3f}"}
    if last >= first:
        return [Saying(level="warning", text=_NOT_FALLEN, figures=figures)]
    return [
        Saying(level="note", text="The training loss fell from {first} to {last}.", figures=figures)
    ]


def _of_gap(steps: Steps) -> list[Saying]:
    """Compare what was measured on other records than those that are learned."""
    measured = [(step, loss) for step, loss in curve(steps, "eval_loss") if math.isfinite(loss)]
    if not measured:
        return [
            Saying(
                level="note",
                text="Nothing was measured on records that were not learned, so whether the model "
                "learned more than these records cannot be seen; --eval-fraction 0.1 holds some out.",
            )
        ]
    best_step, best = min(measured, key=lambda pair: pair[1])
    last_step, last = measured[-1]
    figures = {
        "best": f"{best:.3f}",
        "best_step": f"{best_step:,}",
        "last": f"{last:.3f}",
        "last_step": f"{last_step:,}",
    }
    if len(measured) > 1 and last > best * (1 + RISE):
        then, end = _loss_near(steps, best_step), _loss_near(steps, last_step)
        if end < then:
            text = (
                "The evaluation loss rises while the training loss falls: it was lowest, {best}, at "
                "step {best_step} and is {last} at step {last_step}. The model begins to know these "
                "records by heart; fewer steps or more records help, and "
                "--set load_best_model_at_end=true keeps the best."
            )
        else:
            text = (
                "The evaluation loss was lowest, {best}, at step {best_step} and is {last} at step "
                "{last_step}."
            )
        return [Saying(level="warning", text=text, figures=figures)]
    if len(measured) > 1 and last < measured[0][1]:
        figures["first"] = f"{measured[0][1]:.3f}"
        text = "The evaluation loss fell from {first} to {last}."
        return [Saying(level="note", text=text, figures=figures)]
    return []


def _loss_near(steps: Steps, step: int) -> float:
    """Return the training loss that was logged last up to a step; no number if none was."""
    return next((loss for at, loss in reversed(curve(steps, "loss")) if at <= step), math.nan)
