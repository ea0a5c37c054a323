import warnings

import pytest

import lmkit as lk
from lmkit import deprecating
from lmkit.deprecating import LmkitDeprecationWarning, deprecated


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(deprecating, "_said", set())


def use():
    deprecated("lmkit.x", since="0.2", gone="0.4", instead="lmkit.y")


@pytest.fixture
def shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        yield shown


def test_it_says_since_when_until_when_and_what_to_use(shown):
    use()

    [one] = shown
    assert str(one.message) == (
        "lmkit.x is deprecated since lmkit 0.2 and will be gone in 0.4; use lmkit.y"
    )
    assert one.category is LmkitDeprecationWarning


def test_it_points_at_the_line_that_is_to_be_mended(shown):
    deprecated("lmkit.x", since="0.2", gone="0.4", instead="lmkit.y")

    [one] = shown
    assert one.filename == __file__


def test_a_line_is_told_once_and_another_line_again(shown):
    for _ in range(3):
        lk.IGNORE  # noqa: B018
    lk.IGNORE  # noqa: B018

    assert len(shown) == 2


class TestNamesThatMoved:
    """`lmkit` had these at the end of issue 2, so plugins of that time import them from it."""

    @pytest.mark.parametrize(
        "name", ["Collator", "Decoder", "Formatter", "IGNORE", "Template", "Usage"]
    )
    def test_are_found_where_they_were_with_a_warning(self, name):
        with pytest.warns(
            LmkitDeprecationWarning, match=rf"lmkit\.{name} is .*use lmkit\.\w+\.{name}"
        ):
            found = getattr(lk, name)

        assert found is not None

    def test_are_not_public_any_more(self):
        assert "IGNORE" not in lk.__all__
        assert "IGNORE" not in dir(lk)
