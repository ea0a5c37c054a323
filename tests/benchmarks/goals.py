"""The numbers to reach, and which of them a run has reached.

A goal is a multiple of a peer's figure in the same run, or a figure that stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

RATE, FIRST, WHOLE = "tokens_per_second", "first_token_s", "whole_s"


@attrs.frozen
class Goal:
    """A row of the numbers to reach.

    Attributes:
        what: in words.
        part: where it is measured.
        ours: our side.
        theirs: the side it is a multiple of; None where the figure stands for itself.
        figure: a field of `lmkit.benching.Figures` or `Result`.
        reach: the least multiple, or the figure.
        prompt_tokens: which work; the first one if None.
    """

    what: str
    part: str
    ours: str
    theirs: str | None
    figure: str
    reach: float
    prompt_tokens: int | None = None


FP32, INT8, INT4 = "lmkit fp32", "lmkit int8", "lmkit int4"
TORCH, OPTIMUM = "transformers fp32", "optimum fp32"
LIMIT, START = "share_of_limit", "start_to_first_token_s"
GOALS = [
    Goal("fp32 decode, transformers", "fp32", FP32, TORCH, RATE, 3.0),
    Goal("fp32 decode, genai", "fp32", FP32, "genai fp32", RATE, 1.35),
    Goal("fp32 decode, share of the read limit", "fp32", FP32, None, LIMIT, 0.9),
    Goal("int8 decode, OpenVINO", "int8", INT8, "openvino int8", RATE, 1.3),
    Goal("int4 decode, transformers", "int4", INT4, TORCH, RATE, 8.0),
    Goal("int4 decode, genai", "int4", INT4, "genai int4", RATE, 1.3),
    Goal("int4 decode, llama.cpp", "int4", INT4, "llama.cpp q4_1", RATE, 1.4),
    Goal("int4 decode, OpenVINO", "int4", INT4, "openvino int4", RATE, 1.4),
    Goal(
        "int4 decode, OpenVINO with every layer in int4",
        "int4",
        INT4,
        "openvino int4-all",
        RATE,
        1.4,
    ),
    Goal("int4 decode, share of the read limit (beyond)", "int4", INT4, None, LIMIT, 0.7),
    Goal("first token of 512, OpenVINO int8", "int8", INT8, "openvino int8", FIRST, 0.48, 512),
    Goal("first token of 512, OpenVINO int4", "int4", INT4, "openvino int4", FIRST, 0.48, 512),
    Goal("first token of 512, genai", "int4", INT4, "genai int4", FIRST, 2.8, 512),
    Goal("repeated text, our plain loop", "repeats", f"{FP32} + drafts", FP32, RATE, 1.7),
    Goal("seq2seq, transformers", "seq2seq", FP32, TORCH, RATE, 2.3),
    Goal("seq2seq, optimum", "seq2seq", FP32, OPTIMUM, RATE, 1.2),
    Goal("seq2seq with 4 beams, transformers", "beams", FP32, TORCH, RATE, 1.5),
    Goal("seq2seq with 4 beams, optimum", "beams", FP32, OPTIMUM, RATE, 1.5),
    Goal("masked, torch", "masked", FP32, TORCH, WHOLE, 1.5),
    Goal("masked int8, torch (beyond)", "masked", INT8, TORCH, WHOLE, 2.0),
    Goal("process start to first token, int4, in seconds", "int4", INT4, None, START, 1.0),
]


def against_goal(goal: Goal, reports: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return a goal's row; None where its part was not measured."""
    if goal.part not in reports:
        return None
    sides = {result["title"]: result for result in reports[goal.part]["results"]}
    ours = figure_of(goal, sides.get(goal.ours))
    if goal.theirs is None:
        if ours is None:
            return (goal.what, "-", "", "-", f"{goal.reach:g}", "not measured")
        is_time = goal.figure.endswith("_s")
        met = ours <= goal.reach if is_time else ours >= goal.reach
        return (
            goal.what,
            f"{ours:.2f}",
            "",
            f"{ours:.2f}",
            f"{goal.reach:g}",
            "yes" if met else "no",
        )
    theirs = figure_of(goal, sides.get(goal.theirs))
    if ours is None or theirs is None:
        return (goal.what, "-", "-", "-", f"{goal.reach:g}x", "not measured")
    is_time = goal.figure.endswith("_s")
    ratio = theirs / ours if is_time else ours / theirs
    shown = [
        f"{1e3 * figure:.0f} ms" if is_time else f"{figure:.1f}/s" for figure in (ours, theirs)
    ]
    met = "yes" if ratio >= goal.reach else "no"
    return (goal.what, *shown, f"{ratio:.2f}x", f"{goal.reach:g}x", met)


def figure_of(goal: Goal, side: Mapping[str, Any] | None) -> float | None:
    """Return the median that a goal is about."""
    if side is None:
        return None
    if goal.figure in side:
        return side[goal.figure]
    for figures in side["figures"]:
        if goal.prompt_tokens in (None, figures["prompt_tokens"]):
            found = figures[goal.figure]
            return found["median"] if isinstance(found, dict) else found
    return None
