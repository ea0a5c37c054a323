import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest

from lmkit.train.reporting.plots import DASHES, MOST_POINTS, Line, draw

FALLING = Line(name="훈련", steps=range(1, 11), figures=[10 / n for n in range(1, 11)])
MEASURED = Line(name="평가", steps=[5, 10], figures=[3.0, 2.0], marked=True, style=1)


@pytest.fixture(scope="module")
def svg():
    return draw([FALLING, MEASURED], name="loss", span=(1, 10))


def lines_of(svg):
    """Return the points of each drawn line: those with a line's own colour."""
    found = ElementTree.fromstring(svg).iterfind(".//{*}path")
    paths = [
        p for p in found if p.get("stroke", "").startswith("var(--line") and p.get("clip-path")
    ]
    return [re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d")) for path in paths]


def test_a_plot_is_one_svg_element_without_a_document_around_it(svg):
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert not re.search(r"<\?xml|<!DOCTYPE|<metadata|<style|xlink", svg)


def test_it_is_the_same_for_the_same_lines(svg):
    assert draw([FALLING, MEASURED], name="loss", span=(1, 10)) == svg


def test_every_point_is_drawn_where_its_step_and_figure_are(svg):
    falling, measured = lines_of(svg)
    across = [float(x) for x, _ in falling]
    down = [float(y) for _, y in falling]

    assert len(falling) == 10
    assert len(measured) == 2
    assert across == sorted(across)
    assert down == sorted(down)
    assert measured[0][0] == falling[4][0]
    assert measured[1][0] == falling[9][0]


def test_only_the_pages_own_colours_are_in_it(svg):
    assert set(re.findall(r"var\(--[\w-]+\)", svg)) == {
        "var(--line-1)",
        "var(--line-2)",
        "var(--grid)",
        "var(--faint)",
    }
    assert not re.search(r"#[0-9a-f]{6}", svg)


def test_a_page_that_refuses_inline_styles_shows_it(svg):
    assert "style=" not in svg
    assert "font-family" not in svg


def test_its_text_is_text(svg):
    texts = [text.text for text in ElementTree.fromstring(svg).iterfind(".//{*}text")]

    assert {"2", "4", "10"} <= set(texts)


def test_two_plots_of_a_page_have_no_id_in_common(svg):
    ids = re.findall(r'id="([^"]*)"', svg)
    used = re.findall(r'(?:url\(#|href="#)([^)"]*)', svg)
    other = re.findall(r'id="([^"]*)"', draw([FALLING, MEASURED], name="rate", span=(1, 10)))

    assert ids
    assert set(used) <= set(ids)
    assert not set(ids) & set(other)


def test_lines_differ_without_colour(svg):
    dashed = [bool(re.search("stroke-dasharray", part)) for part in svg.split("<path")]

    assert any(dashed)
    assert len(set(DASHES)) == len(DASHES)


def test_what_is_no_number_leaves_a_gap():
    gap = Line(name="loss", steps=[1, 2, 3, 4], figures=[2.0, math.nan, 1.0, math.inf])

    assert "nan" not in draw([gap], name="gap", span=(1, 10)).lower()


def test_a_single_point_is_seen():
    assert "<use " in draw([Line(name="loss", steps=[1], figures=[2.0])], name="one", span=(1, 10))


def test_a_long_run_is_drawn_with_fewer_points_and_its_last():
    steps, span = range(1, 10_001), (1, 10_000)
    long = Line(name="loss", steps=steps, figures=[n % 7 for n in steps])
    (drawn,) = lines_of(draw([long], name="x", span=span))
    two = Line(name="loss", steps=[1, 10_000], figures=[0, 6])
    (short,) = lines_of(draw([two], name="x", span=span))

    assert len(drawn) <= MOST_POINTS + 1
    assert drawn[-1][0] == short[-1][0]


def test_plots_of_one_run_have_the_same_steps_below_them():
    one = Line(name="loss", steps=[7], figures=[2.0], marked=True)

    texts = re.findall(r">(\d+)</text>", draw([one], name="one", span=(0, 10)))

    assert texts[:4] == ["0", "3", "6", "9"]


def test_a_users_own_matplotlib_settings_are_neither_used_nor_changed(svg):
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path"}):
        assert draw([FALLING, MEASURED], name="loss", span=(1, 10)) == svg
        assert matplotlib.rcParams["lines.linewidth"] == 9
