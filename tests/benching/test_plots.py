import sys
from xml.etree import ElementTree

import pytest

from lmkit.benching.plots import check_plot, save_plot
from lmkit.errors import MissingExtra, TaskError

from .reports import report, result

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn(tmp_path):
    save_plot(report(), tmp_path / "plot.svg")
    return ElementTree.parse(tmp_path / "plot.svg").getroot()


def test_every_side_has_a_bar_in_every_panel(drawn):
    fills = [rect.get("class") for rect in drawn.iter(f"{SVG}rect")][1:]

    assert fills == ["ours", "theirs"] * 5


def test_bars_are_as_long_as_their_figures(drawn):
    fast, slow = [float(rect.get("width")) for rect in drawn.iter(f"{SVG}rect") if rect.get("x")][
        :2
    ]

    assert fast / slow == pytest.approx(2, rel=0.01)


def test_texts_are_escaped_and_nothing_lies_outside(drawn):
    texts = [element.text for element in drawn.iter(f"{SVG}text")]
    width, height = (float(part) for part in drawn.get("viewBox").split()[2:])

    assert any(text.startswith("A <fast> one") for text in texts)
    for element in drawn.iter(f"{SVG}rect"):
        if element.get("x"):
            assert float(element.get("x")) + float(element.get("width")) < width
            assert float(element.get("y")) + float(element.get("height")) < height


def test_a_side_without_a_figure_is_left_out_of_its_panel(tmp_path):
    half = result("peer", 0.02, works=[])
    save_plot(report(result("lmkit", 0.01, ours=True), half), tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    fills = [rect.get("class") for rect in root.iter(f"{SVG}rect")][1:]

    assert fills == ["ours"] * 5 + ["theirs"]


def test_a_png_is_drawn_by_matplotlib(tmp_path):
    pytest.importorskip("matplotlib")
    save_plot(report(), tmp_path / "plot.png")

    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_png_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtra, match=r"lmkit-tasks\[train\]"):
        check_plot(tmp_path / "plot.png")


def test_other_pictures_and_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(TaskError, match=r"an \.svg or a \.png"):
        check_plot(tmp_path / "plot.pdf")
    with pytest.raises(TaskError, match="there is no folder"):
        check_plot(tmp_path / "absent" / "plot.svg")
