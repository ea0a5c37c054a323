"""A benchmark's figures as tables: for a terminal, and as Markdown for a document."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lmkit.benching.report import Figures, Report, Spread

Row = tuple[str, ...]


def speed_rows(report: Report) -> tuple[Row, list[Row]]:
    """Return the titles and rows of what each side did, by work.

    Behind a figure stands how many times as fast as the first side that is, whoever wins.
    """
    one_pass = report.family == "masked"
    several = len(report.results) > 1
    beside = ["x first"] if several else []
    titles = ["work", "side", "first token ms", *beside, "ms/token", "p50/p99", "tokens/s", *beside]
    titles.append("of the limit")
    if one_pass:
        titles = ["work", "side", "batch ms", "texts/s", *beside]
    if several:
        titles.append("same tokens")
    rows = []
    for work in report.works:
        first = report.results[0].figures.get(work) if several else None
        for result in report.results:
            figures = result.figures.get(work)
            if figures is None:
                cells = ["-"] * (len(titles) - 2)
            elif one_pass:
                rate = Spread(*(work.rows / s for s in _slowest_last(figures.whole_s)))
                cells = [_ms(figures.whole_s), spread_text(rate)]
                cells += (
                    _faster(first.whole_s if first else None, figures.whole_s) if several else []
                )
            else:
                cells = _writing_cells(figures, first, several)
            if several and figures is not None:
                same = figures.agreeing_tokens
                cells.append("" if same is None else f"{same}/{work.new_tokens}")
            rows.append((str(work), result.title, *cells))
    told = [at < 2 or any(row[at] not in ("", "-") for row in rows) for at in range(len(titles))]
    return _only(titles, told), [_only(row, told) for row in rows]


def _only(cells: Sequence[str], told: Sequence[bool]) -> Row:
    return tuple(itertools.compress(cells, told))


def side_rows(report: Report) -> tuple[Row, list[Row]]:
    """Return the titles and rows of what each side is and what it took."""
    scored = any(result.perplexity is not None for result in report.results)
    titles = ("side", "library", "settings", "start to first token s", "peak memory MB")
    rows = []
    for result in report.results:
        start, perplexity = result.start_to_first_token_s, result.perplexity
        cells = [result.title, result.library, result.settings]
        cells += ["-" if start is None else f"{start:.2f}", f"{result.peak_bytes / 1e6:,.0f}"]
        cells += ["-" if perplexity is None else f"{perplexity:.3f}"] if scored else []
        rows.append(tuple(cells))
    return (*titles, *(("perplexity",) if scored else ())), rows


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
    if len(report.results) > 1:
        first = report.results[0].title
        lines.append(f"x first: how many times as fast as {first}, by medians; below 1 is slower")
        lines.append(f"same tokens: how many leading ones are those of {first}, in the first round")
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
        if result.unscored is not None:
            lines.append(f"{result.title} tells no perplexity: {result.unscored}")
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


def _writing_cells(figures: Figures, first: Figures | None, several: bool) -> list[str]:
    """Return the cells of a side that writes, between its title and its agreement."""
    wait, rate, share = figures.first_token_s, figures.tokens_per_second, figures.share_of_limit
    waits, rates = (first.first_token_s, first.tokens_per_second) if first else (None, None)
    cells = ["-" if wait is None else _ms(wait)]
    cells += _faster(waits, wait) if several else []
    p50, p99 = figures.token_p50_s, figures.token_p99_s
    cells += [
        "-" if figures.token_s is None else f"{1e3 * figures.token_s.median:.2f}",
        "-" if p50 is None or p99 is None else f"{1e3 * p50:.2f}/{1e3 * p99:.2f}",
        "-" if rate is None else spread_text(rate),
    ]
    cells += _faster(rate, rates) if several else []
    return [*cells, "" if share is None else f"{share:.0%}"]


def _faster(more: Spread | None, less: Spread | None) -> list[str]:
    """Return the cell that says how many times one median is the other's; empty without both.

    >>> _faster(Spread(30.0, 29.0, 31.0), Spread(20.0, 19.0, 21.0))
    ['1.50']
    """
    if more is None or less is None:
        return [""]
    return [f"{more.median / less.median:.2f}"]


def _ms(spread: Spread) -> str:
    return spread_text(Spread(*(1e3 * figure for figure in _of(spread))))


def _of(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.low, spread.high


def _slowest_last(spread: Spread) -> tuple[float, float, float]:
    """Return seconds so that their inverses are a median, the least and the most."""
    return spread.median, spread.high, spread.low
