"""Plots: figures over steps, drawn by matplotlib as SVG that stands inside a page.

The SVG takes its colours and its font from the page's style sheet, so that one file suits a light
and a dark theme: it is drawn in colours that stand for the page's variables, which are put in their
place afterwards. It holds numbers only; names stand in the page beside it, where every script has a
font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

from lmkit.values import value

# Inches of 72 units; as wide as a phone's page, so that text stays readable.
WIDTH, HEIGHT = 3.5, 2.0
# Dashes tell lines apart without colour; on, off, ... in units.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (3, 1), (9, 3))
MOST_POINTS = 400  # of one line; more cannot be told apart at a page's width

# Colours that no other part of a figure has, each for a variable of the page.
_COLOURS = {
    **{f"#0101{n:02x}": f"var(--line-{n + 1})" for n in range(len(DASHES))},
    "#010201": "var(--grid)",
    "#010202": "var(--faint)",
}
_GRID, _FAINT = list(_COLOURS)[-2:]


@value(kw_only=True)
class Line:
    """One line of a plot.

    Attributes:
        name: what it shows.
        steps: N steps, in order.
        figures: the figure at each.
        marked: whether each point is marked, as it is measured there and not between.
        style: which of the page's line colours and of `DASHES` it has, from 0 to 5.
    """

    name: str
    steps: Sequence[int]
    figures: Sequence[float]
    marked: bool = False
    style: int = 0


def draw(
    lines: Sequence[Line], *, name: str, span: tuple[int, int], logarithmic: bool = False
) -> str:
    """Return a plot as an `<svg>` element, the same for the same lines.

    Args:
        lines: what to draw; figures that are no finite numbers leave a gap.
        name: told apart from the other plots of the page by this; letters and digits.
        span: the first and last step that the axis shows, so that plots of one run are alike.
        logarithmic: whether the figures' axis is.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own settings are for their own plots
        matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            _add(axes, line)
        margin = max(1, (span[1] - span[0]) * 0.03)
        axes.set_xlim(span[0] - margin, span[1] + margin)
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda figure, _: f"{figure:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.grid(True, which="major", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_FAINT)
        axes.tick_params(which="both", length=0, pad=4)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    return _for_page(drawn.getvalue(), name)


def _add(axes: object, line: Line) -> None:
    every = math.ceil(len(line.steps) / MOST_POINTS)
    chosen = [*range(0, len(line.steps) - 1, every), len(line.steps) - 1]
    figures = [line.figures[at] for at in chosen]
    axes.plot(  # type: ignore[attr-defined]
        [line.steps[at] for at in chosen],
        [figure if math.isfinite(figure) else math.nan for figure in figures],
        color=list(_COLOURS)[line.style],
        linewidth=1.5,
        dashes=[part / 1.5 for part in DASHES[line.style]],
        marker="o" if line.marked or len(chosen) == 1 else None,
        markersize=3.5,
    )


def _for_page(svg: str, name: str) -> str:
    """Return what matplotlib wrote without what only a file of its own needs, in a page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg) [^>]*?(viewBox="[^"]*")[^>]*>', r'\1 class="plot" aria-hidden="true" \2>', svg
    )
    # Names of the drawing's parts.
    svg = re.sub(r' id="(?:[a-z]+[0-9]*_|matplotlib\.)[^"]*"', "", svg)
    svg = re.sub(r'( id="|"#|url\(#)(?=[a-z0-9]{6,})', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' style="([^"]*)"', _as_attributes, svg)  # a page's policy refuses styles inline
    for drawn, wanted in _COLOURS.items():
        svg = svg.replace(drawn, wanted)
    return re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><").strip()


def _as_attributes(style: re.Match[str]) -> str:
    """Return a style as attributes, without the fonts that matplotlib would have.

    >>> _as_attributes(re.search(' style="(.*)"', ' style="fill: none; font-family: X"'))
    ' fill="none"'
    """
    pairs = (part.partition(":") for part in style[1].split(";") if part.strip())
    wanted = ((name.strip(), content.strip()) for name, _, content in pairs)
    return "".join(f' {name}="{content}"' for name, content in wanted if name != "font-family")
