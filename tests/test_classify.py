"""The built-in task `classify`, and the examples that make variants of it."""

import re
import runpy
from pathlib import Path

import pytest

import lmkit as lk
from lmkit.testing import QUICK, check_task, toy_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"
CLASSIFY = lk.get_task("classify")
ASKED = {"text": "Mia sued Noah.", "question": "Is there a claim?", "answer": "Yes"}
PLAIN = {"text": "The sea is dry.", "answer": "No"}


def written(task, record):
    prompt = lk.prompt_ids(task, record, toy_tokenizer()).tolist()
    return toy_tokenizer().decode(prompt, skip_control=False)


def test_it_asks_a_question_where_there_is_one():
    assert written(CLASSIFY, ASKED) == "Mia sued Noah.\nQuestion: Is there a claim?\nAnswer:"
    assert written(CLASSIFY, PLAIN) == "The sea is dry.\nAnswer:"


def test_it_has_what_every_task_has():
    check_task(CLASSIFY, [ASKED, PLAIN], promises=QUICK)


def test_it_is_measured_as_labels_are():
    assert [type(metric).__name__ for metric in CLASSIFY.metrics] == ["Accuracy", "MacroF1"]


def test_it_serves_real_questions_about_facts_as_they_are(shared_rows):
    rows = shared_rows("legal_facts_yesno_en.jsonl", 50)

    check_task(CLASSIFY, rows, promises=QUICK)
    assert {CLASSIFY.reference(row, toy_tokenizer().dialect) for row in rows} == {"Yes", "No"}


class TestTheReviewsExample:
    @pytest.fixture
    def example(self):
        return runpy.run_path(str(EXAMPLES / "classify_reviews.py"))

    def test_is_a_variant_with_korean_labels(self, example):
        reviews = example["REVIEWS"]

        assert written(reviews, {"text": "좋다"}) == "리뷰: 좋다\n감정:"
        assert reviews.decoder.labels == ("긍정", "부정")
        assert reviews.metrics == CLASSIFY.metrics

    def test_serves_real_reviews_as_they_are(self, example, shared_rows):
        check_task(example["REVIEWS"], shared_rows("nsmc_sentiment.jsonl", 50), promises=QUICK)

    @pytest.mark.slow
    def test_tells_good_from_bad_from_its_bundle(self, example, tmp_path, capsys):
        example["main"](tmp_path)

        figures, *lines = capsys.readouterr().out.splitlines()
        assert "'accuracy': 1.0" in figures
        assert [line[:2] for line in lines] == [row["label_text"] for row in example["ROWS"]]
        assert all(re.search(r"\(긍정 [01]\.\d\d, 부정 [01]\.\d\d\)", line) for line in lines)


class TestTheSeedsExample:
    @pytest.fixture
    def example(self):
        return runpy.run_path(str(EXAMPLES / "seed_004_classification.py"))

    def test_answers_by_the_seeds_rule(self, example):
        """Source: seed 004, section 4: Yes where the party that is asked about is the winner."""
        row = example["row"]

        assert row("A sued B.", "A", "B", True)["answer"] == "Yes"
        assert row("A sued B.", "A", "B", False)["answer"] == "No"
        assert row("B fell.", "A", "B", True)["answer"] == "No"
        assert row("B fell.", "A", "B", False)["answer"] == "Yes"
        assert row("One fell.", "A", "B", True)["answer"] == "Yes"
        assert row("One fell.", "A", "B", False)["answer"] == "No"

    def test_asks_about_the_party_that_the_facts_name(self, example):
        asked = [
            written(example["WINS"], example["row"](*case)).splitlines()[-1]
            for case in example["CASES"]
        ]

        assert asked == [
            "Does Alder win?",
            "Does Cedar win?",
            "Does Dogwood win?",
            "Does Fir win?",
            "Does the complainant win?",
            "Does the complainant win?",
        ]

    @pytest.mark.slow
    def test_answers_its_cases_from_its_bundle(self, example, tmp_path, capsys):
        example["main"](tmp_path)

        lines = [line for line in capsys.readouterr().out.splitlines() if "Yes);" in line]
        assert len(lines) == 6
        for line in lines:
            assert line.split("? ")[1].split(" ")[0] == line.split("; ")[1]
