"""How a bundle's weights are stored, and what was measured of each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmkit.errors import TaskError, UnknownName

FP32, INT4 = "fp32", "int4"
PRECISIONS = (FP32, "int8", INT4)

# The plain name of the graph that checks drafts; it has the same weights, and reads so many tokens at once.
DRAFT_FILE = "model.draft.onnx"
DRAFT_TOKENS = 8


def draft_port(present: str, place: int) -> str:
    """Return the name of the output that holds keys or values behind one of a draft's tokens.

    >>> draft_port("present.0.key", 2)
    'present.0.key.behind.2'
    """
    return f"{present}.behind.{place}"


@attrs.frozen(kw_only=True)
class Precision:
    """One precision of a bundle.

    Attributes:
        files: the precision's own file for each graph's plain one, such as `model.onnx` to
            `model.int4.onnx`; empty where they are the plain ones. A causal graph whose products round
            what they multiply may have a second one, `model.draft.onnx` by its plain name.
        size_bytes: its graphs and the weights that they read, those that it shares included.
        golden: the first tokens behind each golden prompt, as far as they lead clearly.
        parity: how it compares with torch.
        greedy_agreement: the share of places at which it chooses float32's token, from 0 to 1.
        perplexity: on the data that was given at export, and by which share it is higher than
            float32's; empty where there was none.
        metrics: the task's own figures on that data.
        tokens_per_second: behind the first token, of one row; of a masked model tokens that are read.
        first_token_seconds: behind a prompt.
        memory_bytes: the most that a process that answers has held.
        plan: what was kept in a higher precision, in words; empty for nothing.
        rounded_by: what its weights were seen to multiply when they were rounded, in words; empty where
            they were rounded for themselves.
    """

    files: dict[str, str] = attrs.field(factory=dict)
    size_bytes: int = 0
    golden: tuple[tuple[int, ...], ...] = ()
    parity: dict[str, Any] = attrs.field(factory=dict)
    greedy_agreement: float | None = None
    perplexity: dict[str, Any] = attrs.field(factory=dict)
    metrics: dict[str, Any] = attrs.field(factory=dict)
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    memory_bytes: int | None = None
    plan: str = ""
    rounded_by: str = ""


def named(precision: str | Sequence[str]) -> tuple[str, ...]:
    """Return the precisions that are meant, in their order.

    Args:
        precision: names, or one text with commas between them.
    Raises:
        UnknownName: there is no such precision.
        TaskError: none is named, or one is named twice.

    >>> named("fp32, int4")
    ('fp32', 'int4')
    """
    parts = precision.split(",") if isinstance(precision, str) else precision
    names = tuple(str(part).strip() for part in parts)
    for name in names:
        if name not in PRECISIONS:
            raise UnknownName("precision", name, PRECISIONS)
    if not names or len(set(names)) < len(names):
        raise TaskError(f"precision is {precision!r}; expected each one once, such as 'fp32,int4'")
    return names


def file_of(plain: str, precision: str, default: str) -> str:
    """Return the name of a precision's file; the default one's are the plain names.

    >>> file_of("model.onnx", "int4", "fp32")
    'model.int4.onnx'
    """
    if precision == default:
        return plain
    stem, dot, end = plain.partition(".")
    return f"{stem}.{precision}{dot}{end}"
