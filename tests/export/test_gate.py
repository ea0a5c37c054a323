"""A precision that loses more than was allowed is refused with the figures of all."""

import pytest

from lmkit.errors import ExportError, QualityError, TaskError
from lmkit.export.gate import check, passes, share, with_tried
from lmkit.saving.precisions import Precision


def measured(perplexity, increase, **options):
    figures = {"bundle": perplexity, "increase": increase, "tokens": 4100, "records": 120}
    return Precision(perplexity=figures, **options)


class TestAShare:
    @pytest.mark.parametrize("given", ["2%", " 2 % ".replace(" %", "%"), "0.02", 0.02, "2e-2"])
    def test_is_written_with_a_percent_sign_or_as_a_number(self, given):
        assert share(given) == pytest.approx(0.02)

    def test_may_be_nothing(self):
        assert share("0%") == share(0) == 0

    @pytest.mark.parametrize("given", ["", "%", "two", "-1%", -0.1, "nan", float("inf"), "2%%"])
    def test_of_another_form_says_what_is_expected(self, given):
        with pytest.raises(TaskError, match=r"max_perplexity_increase is .*such as '2%' or 0.02"):
            share(given)


class TestPassing:
    def test_without_a_limit_everything_passes(self):
        assert passes(measured(99.0, 5.0), None)
        check({"int4": measured(99.0, 5.0)}, None)

    def test_as_much_as_was_allowed_passes(self):
        assert passes(measured(10.2, 0.02), 0.02)
        assert not passes(measured(10.3, 0.03), 0.02)

    def test_a_lower_perplexity_passes(self):
        assert passes(measured(9.0, -0.1), 0.0)

    def test_a_perplexity_that_is_no_number_does_not_pass(self):
        assert not passes(measured(float("nan"), float("nan")), 10.0)

    def test_what_could_not_be_measured_is_an_error_with_the_reason(self):
        found = Precision(perplexity={"not_measured": "the data has no answers to score"})

        with pytest.raises(ExportError, match="cannot measure perplexity: the data has no answers"):
            passes(found, 0.02)


FOUND = {
    "fp32": measured(12.345, 0.0),
    "int8": measured(12.36, 0.0012),
    "int4": measured(13.251, 0.0734, plan="12 of 211 weights stay in int8"),
}


class TestARefusal:
    def test_names_every_precision_with_its_figures(self):
        with pytest.raises(QualityError) as caught:
            check(FOUND, 0.02)

        lines = str(caught.value).splitlines()
        assert lines[0].startswith("int4 raises perplexity by more than the 2% that were allowed")
        assert lines[1].split() == ["fp32", "12.345", "+0.00%"]
        assert lines[2].split() == ["int8", "12.360", "+0.12%"]
        assert lines[3].split()[:3] == ["int4", "13.251", "+7.34%"]
        assert "12 of 211 weights stay in int8" in lines[3]
        assert "4,100 learned tokens of 120 records" in lines[4]
        assert caught.value.increases == {"fp32": 0.0, "int8": 0.0012, "int4": 0.0734}

    def test_of_two_names_both(self):
        found = {**FOUND, "int8": measured(13.0, 0.0531)}

        with pytest.raises(
            QualityError, match=r"^int8 and int4 raise perplexity .*\n(.*\n)+.*fp32,"
        ):
            check(found, 0.02)

    def test_says_what_to_try(self):
        with pytest.raises(
            QualityError, match=r"try --precision fp32,int8, or allow more: .* 7\.71%"
        ):
            check(FOUND, 0.02)

    def test_of_int4_alone_advises_int8(self):
        found = {name: one for name, one in FOUND.items() if name != "int8"}

        with pytest.raises(QualityError, match=r"try --precision fp32,int8"):
            check(found, 0.02)

    def test_of_int8_advises_float32(self):
        found = {"fp32": measured(10.0, 0.0), "int8": measured(11.0, 0.1)}

        with pytest.raises(QualityError, match=r"try --precision fp32, or"):
            check(found, 0.02)

    def test_has_the_figures_of_every_way_that_was_tried(self):
        ways = [
            measured(14.0, 0.13, size_bytes=90),
            measured(13.0, 0.05, size_bytes=100, plan="half stays in int8"),
            measured(13.1, 0.06, size_bytes=120, plan="most stays in int8"),
        ]
        found = {"fp32": measured(12.345, 0.0), "int4": with_tried(ways[-1], ways[:-1])}

        with pytest.raises(QualityError) as caught:
            check(found, 0.02)

        lines = [line.split() for line in str(caught.value).splitlines()]
        assert lines[2] == ["int4", "14.000", "+13.00%"]
        assert lines[3][:3] == ["int4", "13.000", "+5.00%"]
        assert lines[4][:3] == ["int4", "13.100", "+6.00%"]
        assert "(half stays in int8)" in " ".join(lines[3])
        assert "--max-perplexity-increase 5.25%" in str(caught.value)


class TestTheWayThatPasses:
    def test_knows_what_the_smaller_ones_lost(self):
        ways = [measured(14.0, 0.13, size_bytes=90), measured(13.0, 0.01, size_bytes=100)]

        found = with_tried(ways[1], ways[:1])

        assert passes(found, 0.02)
        assert found.perplexity["tried"] == [
            {"plan": "", "size_bytes": 90, "bundle": 14.0, "increase": 0.13}
        ]

    def test_of_the_first_is_as_it_was(self):
        assert with_tried(FOUND["int4"], []) is FOUND["int4"]
