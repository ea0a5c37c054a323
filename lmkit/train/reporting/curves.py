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
        word: the sentence's name in `report.words.json`, where `{name}` stands for a figure.
        figures: the figures, as they are shown.
    """

    level: str
    word: str
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
    said = [*_of_training(curve(steps, "loss")), *_of_evaluation(steps)]
    for task in tasks:
        said += [
            attrs.evolve(
                saying, word=f"task-{saying.word}", figures={"task": task, **saying.figures}
            )
            for saying in _of_training(curve(steps, f"loss_{task}"))
            if saying.level == "warning"
        ]
    return said


def _of_training(losses: Curve) -> list[Saying]:
    broken = next((step for step, loss in losses if not math.isfinite(loss)), None)
    if broken is not None:
        return [Saying(level="warning", word="no-number", figures={"step": f"{broken:,}"})]
    if len(losses) < 2:
        return [Saying(level="note", word="logged-once")]
    # One batch says little, so some first and some last are compared.
    few = max(1, len(losses) // 4)
    first = sum(loss for _, loss in losses[:few]) / few
    last = sum(loss for _, loss in losses[-few:]) / few
    figures = {"first": f"{first:.3f}", "last": f"{last:.3f}"}
    if last >= first:
        return [Saying(level="warning", word="not-fallen", figures=figures)]
    return [Saying(level="note", word="fallen", figures=figures)]


def _of_evaluation(steps: Steps) -> list[Saying]:
    """Compare what was measured on other records than those that are learned."""
    measured = [(step, loss) for step, loss in curve(steps, "eval_loss") if math.isfinite(loss)]
    if not measured:
        return [Saying(level="note", word="not-measured")]
    if len(measured) < 2:
        return []
    first, (last_step, last) = measured[0][1], measured[-1]
    best_step, best = min(measured, key=lambda pair: pair[1])
    if last > best * (1 + RISE):
        figures = {
            "best": f"{best:.3f}",
            "best_step": f"{best_step:,}",
            "last": f"{last:.3f}",
            "last_step": f"{last_step:,}",
        }
        falls = _loss_near(steps, last_step) < _loss_near(steps, best_step)
        word = "by-heart" if falls else "eval-risen"
        return [Saying(level="warning", word=word, figures=figures)]
    figures = {"first": f"{first:.3f}", "last": f"{last:.3f}"}
    if last < first:
        return [Saying(level="note", word="eval-fallen", figures=figures)]
    return [Saying(level="warning", word="eval-not-fallen", figures=figures)]


def _loss_near(steps: Steps, step: int) -> float:
    """Return the training loss that was logged last up to a step; no number if none was."""
    return next((loss for at, loss in reversed(curve(steps, "loss")) if at <= step), math.nan)
