"""The quality gate: a precision that loses more than was allowed is refused, with the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmkit.errors import ExportError, QualityError, TaskError
from lmkit.saving.precisions import FP32, PRECISIONS, Precision


def share(given: str | float) -> float:
    """Return a share that is written as `2%` or as `0.02`.

    Raises:
        TaskError: it is no such share.

    >>> share("2%"), share(0.02)
    (0.02, 0.02)
    """
    text = str(given).strip()
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        found = float("nan")
    if not 0 <= found < float("inf"):
        raise TaskError(
            f"max_perplexity_increase is {given!r}; expected a share such as '2%' or 0.02"
        )
    return found


def passes(found: Precision, most: float | None) -> bool:
    """Say whether a precision's perplexity has risen by no more than was allowed.

    Args:
        found: the precision, measured.
        most: the share by which it may rise; None for any.
    Raises:
        ExportError: it could not be measured.
    """
    if most is None:
        return True
    increase = found.perplexity.get("increase")
    if increase is None:
        why = found.perplexity.get("not_measured", "there is no data")
        raise ExportError(f"the quality gate cannot measure perplexity: {why}")
    return bool(increase <= most)  # a NaN does not pass


def check(found: Mapping[str, Precision], most: float | None) -> None:
    """Refuse a bundle if one of its precisions does not pass.

    Args:
        found: every precision that was measured, float32 first.
        most: the share by which perplexity may rise; None for any.
    Raises:
        QualityError: the text has every precision's figures, and what to try.
    """
    refused = [name for name, one in found.items() if not passes(one, most)]
    if not refused or most is None:
        return
    first = found[refused[0]].perplexity
    good = [name for name in PRECISIONS if name in found and name not in refused]
    needed = max(_least(one) for one in found.values())
    raises = " and ".join(refused) + (" raise" if len(refused) > 1 else " raises")
    lines = [
        f"{raises} perplexity by more than the {_percent(most)} that were allowed; no bundle was "
        "written"
    ]
    for name, one in found.items():
        for figures in (*one.perplexity.get("tried", ()), {"plan": one.plan, **one.perplexity}):
            lines.append(f"  {name:<5} {_figures(figures)}")
    lines.append(
        f"  measured through the bundle on {first['tokens']:,} learned tokens of "
        f"{first['records']:,} records"
    )
    other = [name for name in good if name != FP32] or [n for n in ("int8",) if n not in found]
    choice = ",".join([*(name for name in (FP32,) if name in good), *other]) or FP32
    lines.append(
        f"  try --precision {choice}, or allow more: --max-perplexity-increase "
        f"{_percent(needed * 1.05)}"
    )
    raise QualityError(
        "\n".join(lines), {n: one.perplexity["increase"] for n, one in found.items()}
    )


def with_tried(found: Precision, before: Sequence[Precision]) -> Precision:
    """Return a precision that knows the figures of the smaller ways to store it that lost too much."""
    if not before:
        return found
    tried = [
        {
            "plan": one.plan,
            "size_bytes": one.size_bytes,
            "bundle": one.perplexity["bundle"],
            "increase": one.perplexity["increase"],
        }
        for one in before
    ]
    return attrs.evolve(found, perplexity={**found.perplexity, "tried": tried})


def _least(found: Precision) -> float:
    """Return the least by which any way to store a precision raised perplexity."""
    tried = found.perplexity.get("tried", ())
    return float(min(one["increase"] for one in (*tried, found.perplexity)))


def _figures(found: Mapping[str, Any]) -> str:
    plan = f"  ({found['plan']})" if found["plan"] else ""
    return f"{found['bundle']:>10,.3f}  {found['increase']:+.2%}{plan}"


def _percent(part: float) -> str:
    return f"{100 * part:.3g}%"
