"""A benchmark's figures as tables: for a terminal, and as Markdown for a document."""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.benching.report import Figures, Report, Spread

Row = tuple[str, ...]


def speed_rows(report: Report) -> tuple[Row, list[Row]]:
    """Return the titles and rows of what each side did, by work."""
    one_pass = report.family == "masked"
    titles = [
        "work",
        "side",
        "first token ms",
        "ms/token",
        "p50",
        "p99",
        "tokens/s",
        "of the limit",
    ]
    if one_pass:
        titles = ["work", "side", "batch ms", "texts/s"]
    several = len(report.results) > 1
    if several:
        titles.append("same tokens")
    rows = []
    for work in report.works:
        for result in report.results:
            figures = result.figures.get(work)
            if figures is None:
                cells = ["-"] * (len(titles) - 2)
            elif one_pass:
                rate = Spread(*(work.rows / s for s in _slowest_last(figures.whole_s)))
                cells = [_ms(figures.whole_s), spread_text(rate)]
            else:
                cells = _causal_cells(figures)
            if several and figures is not None:
                same = figures.agreeing_tokens
                cells.append("" if same is None else f"{same}/{work.new_tokens}")
            rows.append((str(work), result.title, *cells))
    return tuple(titles), rows


def side_rows(report: Report) -> tuple[Row, list[Row]]:
    """Return the titles and rows of what each side is and what it took."""
    titles = ("side", "library", "settings", "start to first token s", "peak memory MB")
    return titles, [
        (
            result.title,
            result.library,
            result.settings,
            "-"
            if result.start_to_first_token_s is None
            else f"{result.start_to_first_token_s:.2f}",
            f"{result.peak_bytes / 1e6:,.0f}",
        )
        for result in report.results
    ]


def notes(report: Report) -> list[str]:
    """Return what a reader of the tables must know: the machine, the limit, who is not there."""
    machine = report.machine
    low, high = report.read_limit.low / 1e9, report.read_limit.high / 1e9
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {report.threads} threads a side, "
        f"{machine['system']}, Python {machine['python']}, {report.date}",
        f"{report.rounds} rounds in turn; medians, and the least and most in brackets",
        f"the machine reads {report.read_limit.median / 1e9:.1f} GB/s from memory "
        f"({low:.1f}-{high:.1f})",
    ]
    for result in report.results:
        if result.weights_bytes_per_token:
            size = result.weights_bytes_per_token
            most = report.read_limit.median / size
            lines.append(
                f"{result.title}: {size / 1e6:,.1f} MB of weights a token, "
                f"so at most {most:,.0f} steps/s"
            )
        if result.failed is not None:
            lines.append(f"{result.title} failed: {result.failed}")
    lines += [f"{skipped.title} skipped: {skipped.reason}" for skipped in report.skipped]
    return lines


def markdown(report: Report) -> str:
    """Return the tables and notes as Markdown."""
    parts = [
        markdown_table(*speed_rows(report)),
        markdown_table(*side_rows(report)),
        "\n".join(f"- {line}" for line in notes(report)),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(titles: Row, rows: Sequence[Row]) -> str:
    """Return one table as Markdown; the first two columns are words, the others figures."""
    lines = [titles, tuple("---" if at < 2 else "---:" for at in range(len(titles))), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def spread_text(spread: Spread) -> str:
    """Return a median with its least and most.

    >>> spread_text(Spread(101.23, 98.4, 104.0))
    '101 (98-104)'
    """
    digits = 0 if spread.median >= 100 else 1 if spread.median >= 10 else 2
    middle, low, high = (f"{figure:,.{digits}f}" for figure in _of(spread))
    return f"{middle} ({low}-{high})"


def _causal_cells(figures: Figures) -> list[str]:
    rate = figures.tokens_per_second
    share = figures.share_of_limit
    return [
        "-" if figures.first_token_s is None else _ms(figures.first_token_s),
        "-" if figures.token_s is None else f"{1e3 * figures.token_s.median:.2f}",
        "-" if figures.token_p50_s is None else f"{1e3 * figures.token_p50_s:.2f}",
        "-" if figures.token_p99_s is None else f"{1e3 * figures.token_p99_s:.2f}",
        "-" if rate is None else spread_text(rate),
        "" if share is None else f"{share:.0%}",
    ]


def _ms(spread: Spread) -> str:
    return spread_text(Spread(*(1e3 * figure for figure in _of(spread))))


def _of(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.low, spread.high


def _slowest_last(spread: Spread) -> tuple[float, float, float]:
    """Return seconds so that their inverses are a median, the least and the most."""
    return spread.median, spread.high, spread.low
