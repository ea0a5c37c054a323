import math
import unicodedata

import numpy as np
import pytest

import lmkit as lk
from lmkit.decoding import Chooser, Decoder
from lmkit.errors import RecordError, TaskError
from lmkit.family import Family
from lmkit.saving.jsonform import from_json, to_json

SENTIMENT = lk.LabelDecoder(labels=["긍정", "부정"])


def logs(*probabilities):
    return np.log(np.array(probabilities))


def test_it_chooses_and_does_not_read_free_text():
    assert isinstance(SENTIMENT, Chooser)
    assert not isinstance(lk.TextDecoder(), Chooser)
    assert SENTIMENT.families == {Family.CAUSAL, Family.SEQ2SEQ}
    assert SENTIMENT.stop == ()


def test_it_asks_yes_or_no_unless_told_otherwise():
    assert lk.LabelDecoder().labels == ("Yes", "No")


class TestChoosing:
    def test_shares_what_the_model_gives_to_all_of_the_labels(self):
        found = SENTIMENT.choose([logs(0.3), logs(0.1)])

        assert found == pytest.approx({"긍정": 0.75, "부정": 0.25})

    def test_multiplies_the_probabilities_of_a_labels_tokens(self):
        found = SENTIMENT.choose([logs(0.5, 0.2), logs(0.3)])

        assert found == pytest.approx({"긍정": 0.25, "부정": 0.75})

    def test_normalised_takes_their_geometric_mean(self):
        """Else a long label is the less likely for its length alone."""
        decoder = lk.LabelDecoder(labels=("a", "b"), normalize=True)

        found = decoder.choose([logs(0.5, 0.5, 0.5), logs(0.25)])

        assert found == pytest.approx({"a": 2 / 3, "b": 1 / 3})

    def test_keeps_the_labels_order_and_sums_to_1(self):
        decoder = lk.LabelDecoder(labels=("c", "a", "b"))

        found = decoder.choose([logs(0.1), logs(0.2), logs(0.4)])

        assert list(found) == ["c", "a", "b"]
        assert sum(found.values()) == pytest.approx(1)

    def test_holds_for_labels_that_are_all_but_impossible(self):
        """exp(-5000) is 0, and 0 / 0 no probability."""
        found = SENTIMENT.choose([np.array([-5000.0]), np.array([-5000.0 - math.log(3)])])

        assert found == pytest.approx({"긍정": 0.75, "부정": 0.25})


class TestReading:
    @pytest.mark.parametrize("text", ["긍정", " 긍정\n", unicodedata.normalize("NFD", "긍정")])
    def test_finds_the_label_that_a_text_is(self, text):
        assert SENTIMENT.read(text) == "긍정"

    @pytest.mark.parametrize("text", ["긍정적", "", "yes", "긍정 부정"])
    def test_refuses_what_is_none_of_them(self, text):
        with pytest.raises(RecordError, match=f"the answer is '{text}'; expected .*'긍정', '부정'"):
            SENTIMENT.read(text)

    def test_minds_the_case(self):
        with pytest.raises(RecordError, match="'yes'"):
            lk.LabelDecoder().read("yes")


@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("Yes",),
        "Yes",
        ("Yes", "Yes"),
        ("한", unicodedata.normalize("NFD", "한")),
        ("Yes", ""),
        ("Yes", " "),
        ("Yes", " No"),
        (0, 1),
        None,
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels):
    with pytest.raises(TaskError, match=r"labels is .*; expected two labels or more"):
        lk.LabelDecoder(labels=labels)


def test_normalize_is_a_flag():
    with pytest.raises(TaskError, match="normalize is 1; expected True or False"):
        lk.LabelDecoder(normalize=1)


def test_it_makes_the_trip_through_json():
    decoder = lk.LabelDecoder(labels=("긍정", "부정", "중립"), normalize=True)

    assert from_json(to_json(decoder), Decoder) == decoder
