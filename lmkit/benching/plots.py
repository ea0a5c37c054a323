"""A benchmark as a picture: bars of every side, ours and theirs, whoever wins.

An SVG is written here, line by line, so that the smallest install can draw it, and wears dark colours
where its reader's page does; a PNG is drawn by matplotlib, which the extra `train` brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import attrs

from lmkit.benching.report import Report, Spread
from lmkit.errors import MissingExtra, TaskError
from lmkit.files import write_atomically

OURS, THEIRS, INK, FAINT = "#3b82f6", "#9ca3af", "#111827", "#6b7280"
DARK = {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#9198a1", "theirs": "#6e7681"}
STYLE = (
    f".paper{{fill:#ffffff}}.ink{{fill:{INK}}}.faint{{fill:{FAINT}}}.line{{stroke:{INK};fill:none}}"
    f".ours{{fill:{OURS}}}.theirs{{fill:{THEIRS}}}"
    "@media(prefers-color-scheme:dark){"
    f".paper{{fill:{DARK['paper']}}}.ink{{fill:{DARK['ink']}}}.faint{{fill:{DARK['faint']}}}"
    f".line{{stroke:{DARK['ink']}}}.theirs{{fill:{DARK['theirs']}}}}}"
)
WIDTH, LABELS, FIGURES = 460, 140, 84  # of a panel, its names and its figures, in pixels
BAR, GAP, HEAD, MARGIN = 16, 7, 40, 20
COLUMNS = 2


@attrs.frozen
class Bar:
    """One side's figure in a panel.

    Attributes:
        title: the side.
        spread: its figure.
        ours: whether it is the bundle.
    """

    title: str
    spread: Spread
    ours: bool


@attrs.frozen
class Panel:
    """One figure of every side.

    Attributes:
        title: what is shown, of which work.
        better: in words, which end is better.
        bars: the sides that have that figure.
    """

    title: str
    better: str
    bars: Sequence[Bar]


def save_plot(report: Report, path: str | Path) -> None:
    """Write a report as a picture.

    Args:
        report: what was found.
        path: a name that ends in `.svg` or `.png`.
    Raises:
        TaskError: it ends in something else.
        MissingExtra: a PNG is asked for and matplotlib is not installed.
    """
    check_plot(path)
    path = Path(path)
    shown = panels(report)
    caption = f"{report.machine['processor']}, {report.threads} threads, {report.date[:10]}"
    if path.suffix == ".svg":
        write_atomically(path, svg(shown, caption))
    else:
        _save_png(shown, caption, path)


def check_plot(path: str | Path) -> None:
    """Refuse a picture that could not be written, before anything is measured; as `save_plot` does."""
    suffix = Path(path).suffix
    if suffix not in (".svg", ".png"):
        raise TaskError(f"'{path}': a plot is an .svg or a .png")
    if not Path(path).parent.is_dir():
        raise TaskError(f"'{path}': there is no folder '{Path(path).parent}'")
    if suffix == ".png":
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            what = "a plot as .png (an .svg needs nothing)"
            raise MissingExtra(what, "train", "matplotlib") from error


def panels(report: Report) -> list[Panel]:
    """Return what there is to draw, in the order of the work."""
    found = []
    for work in report.works:
        rates, firsts = [], []
        for result in report.results:
            figures = result.figures.get(work)
            if figures is None:
                continue
            name, ours = result.title, result.ours
            if figures.tokens_per_second is not None:
                rates.append(Bar(name, figures.tokens_per_second, ours))
            wait = figures.first_token_s if work.beams == 1 else figures.whole_s
            if wait is not None:
                spread = Spread(*(1e3 * s for s in (wait.median, wait.low, wait.high)))
                firsts.append(Bar(name, spread, ours))
        what = "a batch" if report.family == "masked" else "first token"
        what = "the whole answer" if work.beams > 1 else what
        found.append(Panel(f"tokens/s, {work}", "longer is better", rates))
        found.append(Panel(f"ms to {what}, {work}", "shorter is better", firsts))
    memory = [
        Bar(result.title, Spread(*[result.peak_bytes / 1e6] * 3), result.ours)
        for result in report.results
    ]
    found.append(Panel("peak memory, MB", "shorter is better", memory))
    return [panel for panel in found if panel.bars]


def svg(panels: Sequence[Panel], caption: str) -> str:
    """Return panels as an SVG document, two beside each other."""
    height = HEAD + max(len(panel.bars) for panel in panels) * (BAR + GAP) + MARGIN
    n_lines = -(-len(panels) // COLUMNS)
    whole = (MARGIN + COLUMNS * (WIDTH + MARGIN), n_lines * height + 2 * MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}" '
        f'width="{whole[0]}" height="{whole[1]}" font-family="sans-serif" font-size="12">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" class="paper"/>',
    ]
    for at, panel in enumerate(panels):
        x = MARGIN + at % COLUMNS * (WIDTH + MARGIN)
        parts += _panel(panel, x, MARGIN + at // COLUMNS * height)
    parts.append(_text(MARGIN, whole[1] - 10, caption, "faint"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x: float, y: float) -> list[str]:
    most = max(bar.spread.high for bar in panel.bars) or 1.0
    room = WIDTH - LABELS - FIGURES
    parts = [
        f'<text x="{x}" y="{y + 12}" class="ink" font-weight="bold">{escape(panel.title)}'
        f'<tspan class="faint" font-weight="normal">  {panel.better}</tspan></text>'
    ]
    for at, bar in enumerate(panel.bars):
        top = y + HEAD - 16 + at * (BAR + GAP)
        middle = top + BAR / 2
        left = x + LABELS
        low, median, high = (
            left + room * figure / most
            for figure in (bar.spread.low, bar.spread.median, bar.spread.high)
        )
        kind = "ours" if bar.ours else "theirs"
        weight = ' font-weight="bold"' if bar.ours else ""
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end" class="ink"{weight}>'
            f"{escape(bar.title)}</text>",
            f'<rect x="{left:.1f}" y="{top}" width="{median - left:.1f}" height="{BAR}" class="{kind}"/>',
        ]
        if bar.spread.high > bar.spread.low:
            parts.append(
                f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} '
                f'{middle - 4}v8" class="line"/>'
            )
        parts.append(
            _text(max(median, high) + 6, middle + 4, figure_text(bar.spread.median), "ink")
        )
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def figure_text(figure: float) -> str:
    """Return a figure short enough to stand behind a bar.

    >>> figure_text(1234.5), figure_text(12.345)
    ('1,234', '12.3')
    """
    return (
        f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
    )


def _save_png(panels: Sequence[Panel], caption: str, path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    n_lines = -(-len(panels) // COLUMNS)
    tallest = max(len(panel.bars) for panel in panels)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own settings are for their own plots
        figure = Figure(
            figsize=(10, n_lines * (0.9 + 0.3 * tallest)), layout="constrained", dpi=110
        )
        figure.suptitle(caption, fontsize=9, color=FAINT)
        for axes, panel in zip(
            figure.subplots(n_lines, COLUMNS, squeeze=False).flat, panels, strict=False
        ):
            _draw_panel(axes, panel)
        for axes in figure.axes[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(path)


def _draw_panel(axes: object, panel: Panel) -> None:
    bars = panel.bars[::-1]
    middles = [bar.spread.median for bar in bars]
    errors = [
        [bar.spread.median - bar.spread.low for bar in bars],
        [bar.spread.high - bar.spread.median for bar in bars],
    ]
    drawn = axes.barh(  # type: ignore[attr-defined]
        [bar.title for bar in bars],
        middles,
        xerr=errors,
        color=[OURS if bar.ours else THEIRS for bar in bars],
        ecolor=INK,
    )
    labels = [figure_text(middle) for middle in middles]
    axes.bar_label(drawn, labels, padding=4, fontsize=8)  # type: ignore[attr-defined]
    axes.margins(x=0.16)  # type: ignore[attr-defined]
    axes.set_title(f"{panel.title}  ({panel.better})", fontsize=9, loc="left")  # type: ignore[attr-defined]
    axes.tick_params(labelsize=8)  # type: ignore[attr-defined]
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
