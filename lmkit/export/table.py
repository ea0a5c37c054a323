"""What was measured of a bundle's precisions, as one table for its README and the terminal."""

from __future__ import annotations

from lmkit.saving.manifest import Manifest
from lmkit.saving.precisions import Precision

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def precision_table(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Return titles and a row for each precision, those columns left out that nothing is known of."""
    precisions = manifest.precisions
    metrics = dict.fromkeys(
        name for found in precisions.values() for name in found.metrics if name != "records"
    )
    titles = [
        "precision",
        "size",
        "tokens/s",
        "first token",
        "memory",
        "perplexity",
        *metrics,
        "greedy tokens as fp32",
    ]
    rows = [
        [
            name + (" (default)" if name == manifest.precision and len(precisions) > 1 else ""),
            _bytes(found.size_bytes),
            "" if found.tokens_per_second is None else f"{found.tokens_per_second:,.1f}",
            _seconds(found.first_token_seconds),
            "" if found.memory_bytes is None else _bytes(found.memory_bytes),
            _perplexity(found),
            *(_metric(found, metric) for metric in metrics),
            "" if found.greedy_agreement is None else f"{found.greedy_agreement:.1%}",
        ]
        for name, found in precisions.items()
    ]
    known = [at for at in range(len(titles)) if any(row[at] for row in rows)]
    return [titles[at] for at in known], [[row[at] for at in known] for row in rows]


def precision_notes(manifest: Manifest) -> list[str]:
    """Return on what the figures were measured, and what else a reader must know of them."""
    found = list(manifest.precisions.values())
    notes = []
    measured = next((one for one in found if "tokens" in one.perplexity), None)
    if measured is not None:
        tokens, records = measured.perplexity["tokens"], measured.perplexity["records"]
        notes.append(
            f"Perplexity is over {tokens:,} learned tokens of {records:,} records, through the bundle."
        )
    counts = {one.metrics["records"] for one in found if one.metrics}
    if counts:
        notes.append(f"The task's metrics are over greedy answers to {max(counts)} records.")
    problem = next((one.perplexity.get("not_measured") for one in found), None)
    if problem:
        notes.append(f"Perplexity was not measured: {problem}.")
    if any(one.tokens_per_second is not None for one in found):
        notes.append(
            "Speed and memory are medians of short runs of one row on the machine that exported, in "
            "turn over the precisions."
        )
    for name, one in manifest.precisions.items():
        own = [text for text in (one.plan, one.rounded_by) if text]
        if own:
            notes.append(f"{name}: {'; '.join(own)}.")
        tried = one.perplexity.get("tried", ())
        if tried:
            lost = ", ".join(
                f"{way['increase']:+.2%} at {_bytes(way['size_bytes'])}" for way in tried
            )
            notes.append(f"{name} lost more than was allowed where it was smaller: {lost}.")
    return notes


def _perplexity(found: Precision) -> str:
    if "bundle" not in found.perplexity:
        return ""
    increase = found.perplexity.get("increase")
    return f"{found.perplexity['bundle']:,.3f}" + (f" ({increase:+.2%})" if increase else "")


def _metric(found: Precision, name: str) -> str:
    return f"{found.metrics[name]:.4g}" if name in found.metrics else ""


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:,.0f} ms"


def _bytes(count: int) -> str:
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"
