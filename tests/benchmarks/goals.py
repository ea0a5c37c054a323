"""The numbers to reach, and which of them a run has reached.

A goal is a multiple of a peer's figure in the same run, or a figure that stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

RATE, FIRST, WHOLE = "tokens_per_second", "first_token_s", "whole_s"
LIMIT, START, SIZE = "share_of_limit", "start_s", "size_share"


@attrs.frozen
class Goal:
    """A row of the numbers to reach.

    Attributes:
        what: in words.
        part: where it is measured.
        ours: our side.
        theirs: the side it is a multiple of; None where the figure stands for itself.
        figure: a field of `lmkit.benching.Figures`, or of what a part has of each side.
        reach: the least multiple, or the figure: the least share of the limit, the most seconds, the
            most of the weights' size.
        beyond: the same, where more is hoped for.
        prompt_tokens: which work; the first one if None.
    """

    what: str
    part: str
    ours: str
    theirs: str | None
    figure: str
    reach: float
    beyond: float | None = None
    prompt_tokens: int | None = None

    @property
    def less_is_better(self) -> bool:
        """Whether the figure itself should be small; a multiple is always to be large."""
        return self.figure.endswith("_s") or self.figure == SIZE

    def reached(self, found: float) -> str:
        """Return `beyond`, `yes` or `no` of a multiple, or of a figure that stands for itself."""
        less = self.theirs is None and self.less_is_better
        for bound, word in ((self.beyond, "beyond"), (self.reach, "yes")):
            if bound is not None and (found <= bound if less else found >= bound):
                return word
        return "no"


FP32, INT8, INT4 = "lmkit fp32", "lmkit int8", "lmkit int4"
TORCH, OPTIMUM = "transformers fp32", "optimum fp32"
OPENVINO4, OPENVINO4_ALL, OPENVINO8 = "openvino int4", "openvino int4-all", "openvino int8"
GOALS = [
    Goal("fp32 decode, transformers", "fp32", FP32, TORCH, RATE, 3.0),
    Goal("fp32 decode, genai", "fp32", FP32, "genai fp32", RATE, 1.35),
    Goal("fp32 decode, share of the read limit", "fp32", FP32, None, LIMIT, 0.9),
    Goal("int4 decode, transformers", "int4", INT4, TORCH, RATE, 8.0),
    Goal("int4 decode, genai", "int4", INT4, "genai int4", RATE, 1.3),
    Goal("int4 decode, llama.cpp", "int4", INT4, "llama.cpp q4_1", RATE, 1.4),
    Goal("int4 decode, OpenVINO", "int4", INT4, OPENVINO4, RATE, 1.4, 1.8),
    Goal("int4 decode, OpenVINO all in int4", "int4", INT4, OPENVINO4_ALL, RATE, 1.4, 1.8),
    Goal("int4 decode, share of the read limit", "int4", INT4, None, LIMIT, 0.7),
    Goal("int8 decode, OpenVINO", "int8", INT8, OPENVINO8, RATE, 1.3, 1.6),
    Goal("first token of 512, int8, OpenVINO", "int8", INT8, OPENVINO8, FIRST, 0.48, 1.0, 512),
    Goal("first token of 512, int4, OpenVINO", "int4", INT4, OPENVINO4, FIRST, 0.48, 1.0, 512),
    Goal("first token of 512, int8, genai", "int8", INT8, "genai int8", FIRST, 2.8, None, 512),
    Goal("first token of 512, int4, genai", "int4", INT4, "genai int4", FIRST, 2.8, None, 512),
    Goal("repeated text, our plain loop", "repeats", f"{FP32} + drafts", FP32, RATE, 1.7, 2.5),
    Goal("seq2seq, transformers", "seq2seq", FP32, TORCH, RATE, 2.3, 3.0),
    Goal("seq2seq, optimum", "seq2seq", FP32, OPTIMUM, RATE, 1.2),
    Goal("seq2seq with 4 beams, transformers", "beams", FP32, TORCH, RATE, 1.5, 2.5),
    Goal("seq2seq with 4 beams, optimum", "beams", FP32, OPTIMUM, RATE, 1.5, 2.5),
    Goal("masked, torch", "masked", FP32, TORCH, WHOLE, 1.5),
    Goal("masked int8, torch", "masked", INT8, TORCH, WHOLE, 1.5, 2.0),
    Goal("process start to first token, int4, s", "start", INT4, None, START, 1.0, 0.6),
    Goal("`lmkit --help`, s", "start", "lmkit --help", None, START, 0.25, 0.1),
    Goal("`import lmkit`, s", "start", "import lmkit", None, START, 0.25, 0.1),
    Goal("fp32 bundle over fp32 weights", "fp32", FP32, None, SIZE, 1.03),
    Goal("int4 bundle over fp32 weights", "int4", INT4, None, SIZE, 0.18),
]


def against_goal(goal: Goal, reports: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return a goal's row, with the perplexities that the speeds come with; None without its part."""
    if goal.part not in reports:
        return None
    sides = {result["title"]: result for result in reports[goal.part]["results"]}
    ours = figure_of(goal, sides.get(goal.ours))
    times = "" if goal.theirs is None else "x"
    reach = f"{goal.reach:g}{times}"
    reach += "" if goal.beyond is None else f" ({goal.beyond:g}{times})"
    theirs = None if goal.theirs is None else figure_of(goal, sides.get(goal.theirs))
    if ours is None or (goal.theirs is not None and theirs is None):
        return (goal.what, "-", "-", "-", reach, "not measured", "")
    if theirs is None:
        return (goal.what, f"{ours:.3g}", "", "", reach, goal.reached(ours), "")
    ratio = theirs / ours if goal.less_is_better else ours / theirs
    shown = [f"{1e3 * s:.0f} ms" if goal.less_is_better else f"{s:.1f}/s" for s in (ours, theirs)]
    told = [sides[name].get("perplexity") for name in (goal.ours, goal.theirs)]
    quality = f"{told[0]:.2f} / {told[1]:.2f}" if all(told) else ""
    return (goal.what, *shown, f"{ratio:.2f}x", reach, goal.reached(ratio), quality)


def figure_of(goal: Goal, side: Mapping[str, Any] | None) -> float | None:
    """Return the median that a goal is about."""
    if side is None:
        return None
    if goal.figure in side:
        return median_of(side[goal.figure])
    for figures in side["figures"]:
        if goal.prompt_tokens in (None, figures["prompt_tokens"]):
            return median_of(figures[goal.figure])
    return None


def median_of(figure: Any) -> float | None:
    """Return a figure that may have a spread."""
    return figure["median"] if isinstance(figure, dict) else figure
