import random
import sys
import unicodedata

import pytest

from lmkit.errors import MissingExtra, RecordError, TaskError
from lmkit.metrics import Accuracy, ExactMatch, MacroF1, Metric, Rouge, check_ready, words
from lmkit.saving.jsonform import from_json, to_json


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


METRICS = [
    ExactMatch(ignore_case=True),
    Accuracy(),
    MacroF1(),
    Rouge(types=["rougeL", "rouge3"], use_stemmer=True, by_syllable=True),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
class TestEveryMetric:
    def test_is_one_and_makes_the_trip_through_json(self, metric):
        assert isinstance(metric, Metric)
        assert from_json(to_json(metric), Metric) == metric

    def test_of_no_answers_is_refused(self, metric):
        with pytest.raises(RecordError, match="there are no answers to measure"):
            metric.score([], [])

    def test_of_answers_without_partners_is_refused(self, metric):
        with pytest.raises(ValueError, match="shorter"):
            metric.score(["a", "b"], ["a"])


class TestLabels:
    """Source: scikit-learn, which most published figures come from."""

    @pytest.mark.parametrize(
        ("answers", "references"),
        [
            ("aabb", "abab"),
            ("aaaa", "aabb"),  # b is never predicted
            ("aabb", "aaaa"),  # b is predicted and never right
            ("abca", "abcc"),
            ("dddd", "abca"),
            ("aaaa", "aaaa"),
            ("a", "b"),
            (["긍정", "부정", "중립"], ["긍정", "긍정", "중립"]),
        ],
    )
    def test_are_measured_as_scikit_learn_does(self, answers, references):
        sklearn = pytest.importorskip("sklearn.metrics")
        answers, references = list(answers), list(references)

        assert Accuracy().score(answers, references)["accuracy"] == pytest.approx(
            sklearn.accuracy_score(references, answers)
        )
        assert MacroF1().score(answers, references)["macro_f1"] == pytest.approx(
            sklearn.f1_score(references, answers, average="macro", zero_division=0)
        )

    def test_drawn_at_random_are_too(self):
        sklearn = pytest.importorskip("sklearn.metrics")
        rng = random.Random(0)
        for n_labels in (2, 3, 7):
            drawn = [rng.choices("abcdefg"[:n_labels], k=200) for _ in range(2)]

            assert MacroF1().score(*drawn)["macro_f1"] == pytest.approx(
                sklearn.f1_score(*reversed(drawn), average="macro", zero_division=0)
            )

    def test_a_model_that_only_says_the_commonest_is_found_out_by_macro_f1(self):
        references = ["No"] * 9 + ["Yes"]

        assert Accuracy().score(["No"] * 10, references) == {"accuracy": 0.9}
        assert MacroF1().score(["No"] * 10, references)["macro_f1"] == pytest.approx(9 / 19)

    def test_are_compared_in_composed_form(self):
        jamo = unicodedata.normalize("NFD", "긍정")

        assert Accuracy().score([jamo], [" 긍정\n"]) == {"accuracy": 1.0}
        assert MacroF1().score([jamo], ["긍정"]) == {"macro_f1": 1.0}


class TestWords:
    def test_are_letters_and_digits_case_folded(self):
        assert words("Don't STOP_now, 3.5%!") == ["don", "t", "stop", "now", "3", "5"]

    def test_of_korean_are_what_stands_between_spaces_with_its_particles(self):
        assert words("나는 '학교에'갔다. AI가 좋아요~") == [
            "나는",
            "학교에",
            "갔다",
            "ai가",
            "좋아요",
        ]

    def test_by_syllable_leave_other_scripts_whole(self):
        assert words("AI가 3월에 왔다", by_syllable=True) == [
            "ai",
            "가",
            "3",
            "월",
            "에",
            "왔",
            "다",
        ]

    def test_in_jamo_are_those_in_syllables(self):
        text = "한국어 요약"

        assert words(unicodedata.normalize("NFD", text)) == words(text)
        assert len(words(unicodedata.normalize("NFD", text), by_syllable=True)) == 5

    def test_keep_the_marks_of_a_letter(self):
        assert words("naïve हिन्दी") == ["naïve", "हिन्दी"]

    def test_of_nothing_are_none(self):
        assert words("") == words("!? …") == []


ENGLISH = [
    ("The cat sat on the mat.", "A cat was sitting on the mat!"),
    ("Police killed the gunman", "the gunman police killed"),
    ("It's 3.5% of snake_case, isn't it?", "its 3 5 of snake case is it"),
    ("running runners ran quickly", "the runner runs quick"),
    ("one two three four", "four three two one"),
    ("nothing in common", "different words"),
    ("", "a reference"),
]


class TestRouge:
    @pytest.fixture(autouse=True)
    def package(self):
        pytest.importorskip("rouge_score")

    @pytest.mark.parametrize("use_stemmer", [False, True])
    def test_on_english_is_the_packages_own(self, use_stemmer):
        from rouge_score.rouge_scorer import RougeScorer

        types = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
        theirs = RougeScorer(types, use_stemmer=use_stemmer)
        ours = Rouge(types=types, use_stemmer=use_stemmer)
        answers, references = zip(*ENGLISH, strict=True)

        for answer, reference in ENGLISH:
            wanted = theirs.score(reference, answer)
            assert ours.score([answer], [reference]) == pytest.approx(
                {name: wanted[name].fmeasure for name in types}
            )
        means = {
            name: sum(theirs.score(r, a)[name].fmeasure for a, r in ENGLISH) / len(ENGLISH)
            for name in types
        }
        assert ours.score(answers, references) == pytest.approx(means)

    def test_on_korean_by_hand(self):
        """Of 4 and 3 words 나는 and 간다 are shared, and of 3 and 2 pairs none."""
        found = Rouge().score(["나는 오늘 학교에 간다."], ["나는 학교로 간다!"])

        assert found == pytest.approx({"rouge1": 4 / 7, "rouge2": 0, "rougeL": 4 / 7})

    def test_on_korean_pairs_by_hand(self):
        """Of 3 words each 2 are shared, and of 2 pairs each 1."""
        found = Rouge().score(["정부는 예산을 늘렸다"], ["정부는 예산을 줄였다"])

        assert found == pytest.approx({"rouge1": 2 / 3, "rouge2": 1 / 2, "rougeL": 2 / 3})

    def test_by_syllable_by_hand(self):
        """학교에 and 학교는: 2 of 3 syllables, and 1 of 2 pairs."""
        found = Rouge(by_syllable=True).score(["학교에"], ["학교는"])

        assert found == pytest.approx({"rouge1": 2 / 3, "rouge2": 1 / 2, "rougeL": 2 / 3})

    def test_is_not_blind_to_korean_as_the_packages_own_words_are(self):
        from rouge_score.rouge_scorer import RougeScorer

        text = "정부는 예산을 늘렸다"

        assert RougeScorer(["rouge1"]).score(text, text)["rouge1"].fmeasure == 0
        assert Rouge(types="rouge1").score([text], [text]) == {"rouge1": 1.0}

    def test_takes_one_type_as_a_string(self):
        assert Rouge(types="rougeL").types == ("rougeL",)

    @pytest.mark.parametrize("types", [(), ("rouge",), ("bleu",), ("rouge0",), ("rouge10",), (1,)])
    def test_of_an_unknown_type_is_refused(self, types):
        with pytest.raises(TaskError, match=r"types is .*; expected names such as 'rouge1'"):
            Rouge(types=types)

    def test_without_its_package_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)

        with pytest.raises(MissingExtra, match=r"the metric Rouge .*'lmkit-tasks\[metrics\]'"):
            Rouge().score(["a"], ["a"])

    def test_without_its_package_says_so_before_anything_is_answered(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)

        with pytest.raises(MissingExtra, match=r"pip install 'lmkit-tasks\[metrics\]'"):
            check_ready([ExactMatch(), Rouge()])


def test_metrics_that_lack_nothing_are_ready():
    check_ready(METRICS)
