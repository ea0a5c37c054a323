import unicodedata

import pytest

from lmkit.jsonform import from_json, to_json
from lmkit.metrics import ExactMatch, Metric


def test_it_is_the_share_that_is_equal():
    assert ExactMatch().score(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == {"exact_match": 0.75}


def test_order_matters():
    assert ExactMatch().score(["a", "b"], ["b", "a"]) == {"exact_match": 0.0}


def test_white_space_around_does_not_count():
    assert ExactMatch().score([" 네\n"], ["네"]) == {"exact_match": 1.0}


def test_hangul_in_jamo_equals_hangul_in_syllables():
    """Some data is decomposed (as file names on a Mac are) and looks the same on the screen."""
    jamo = unicodedata.normalize("NFD", "한글")

    assert jamo != "한글"
    assert ExactMatch().score([jamo], ["한글"]) == {"exact_match": 1.0}


def test_case_counts_unless_told_otherwise():
    assert ExactMatch().score(["Yes"], ["yes"]) == {"exact_match": 0.0}
    assert ExactMatch(ignore_case=True).score(["Yes"], ["yes"]) == {"exact_match": 1.0}


def test_case_is_folded_as_unicode_folds_it():
    assert ExactMatch(ignore_case=True).score(["STRASSE"], ["straße"]) == {"exact_match": 1.0}


def test_a_number_is_compared_as_it_is_written():
    assert ExactMatch().score([3], ["3"]) == {"exact_match": 1.0}


def test_answers_without_partners_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ExactMatch().score(["a", "b"], ["a"])


def test_it_is_a_metric_and_makes_the_trip_through_json():
    metric = ExactMatch(ignore_case=True)

    assert isinstance(metric, Metric)
    assert from_json(to_json(metric), Metric) == metric
