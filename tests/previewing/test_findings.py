"""Each finding has a data file in which it is found, and one in which it is not."""

import json
from pathlib import Path

import numpy as np
import pytest

import lmkit as lk
from lmkit.errors import RecordErrors
from lmkit.previewing.checks import Setting
from previewing.tasks import CHAT, FINDINGS, plain, qa

DATA = Path(__file__).parent / "data"


def found_in(file, task, tokenizer, **options):
    preview = lk.preview(task, data=file, tokenizer=tokenizer, on_bad_row="skip", **options)
    return {finding.name: finding for finding in preview.findings}


@pytest.mark.parametrize("name", FINDINGS)
def test_is_found_where_it_is_with_a_place_and_a_remedy(name):
    level, task, tokenizer, count = FINDINGS[name]
    finding = found_in(DATA / name / "found.jsonl", task, tokenizer())[name]

    assert (finding.level, finding.count) == (level, count)
    assert finding.remedy
    if name != "mostly-padding":  # which is of batches, not of a row
        assert "found.jsonl:" in finding.where


@pytest.mark.parametrize("name", FINDINGS)
def test_is_not_found_where_it_is_not(name):
    _, task, tokenizer, _ = FINDINGS[name]

    assert name not in found_in(DATA / name / "clean.jsonl", task, tokenizer())


def test_every_finding_has_its_files():
    assert {path.name for path in DATA.iterdir()} == {*FINDINGS, "train-rows-in-eval"}


class TestRowsThatAreMeasuredToo:
    def found(self, name):
        folder = DATA / "train-rows-in-eval"
        return found_in(folder / "train.jsonl", qa(), plain(), eval_data=folder / name)

    def test_are_found_with_their_place_among_those_measured(self):
        finding = self.found("found.jsonl")["train-rows-in-eval"]

        assert (finding.level, finding.count, finding.of) == ("warning", 1, 2)
        assert finding.where.endswith("found.jsonl:2")

    def test_are_not_found_where_only_the_question_is_the_same(self):
        assert "train-rows-in-eval" not in self.found("clean.jsonl")


class TestAModelThatReadsLessThanTheTaskHas:
    def found(self, tmp_path, positions):
        plain().save(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
        preview = lk.preview(qa(), data=[{"prompt": "a", "completion": "b"}], model=tmp_path)
        return preview.totals.max_length, {finding.name for finding in preview.findings}

    def test_is_told(self, tmp_path):
        assert self.found(tmp_path, 32) == (32, {"max-length-above-context"})

    def test_is_not_told_where_it_reads_enough(self, tmp_path):
        assert self.found(tmp_path, 64) == (64, set())


class TestPlaceAndExcerpt:
    def test_of_a_prompt_that_differs_show_both_texts(self):
        file = DATA / "prompt-not-a-prefix" / "found.jsonl"
        _, task, tokenizer, _ = FINDINGS["prompt-not-a-prefix"]
        finding = found_in(file, task, tokenizer())["prompt-not-a-prefix"]

        assert finding.where.endswith("found.jsonl:2")
        assert finding.excerpt == "token 0: asked '질문', trained ' 질문대'"

    def test_of_unknown_text_name_the_characters(self):
        _, task, tokenizer, _ = FINDINGS["unknown-tokens"]
        finding = found_in(DATA / "unknown-tokens" / "found.jsonl", task, tokenizer())

        assert "字" in finding["unknown-tokens"].excerpt

    def test_of_a_control_token_show_what_stands_around_it(self):
        file = DATA / "control-tokens-in-data" / "found.jsonl"

        assert found_in(file, qa(), plain())["control-tokens-in-data"].excerpt == "끝<|im_end|>이다"


class TestBadRows:
    def test_stop_and_are_gathered(self):
        with pytest.raises(RecordErrors, match="2 bad rows"):
            lk.preview(qa(), data=[{"prompt": "a"}, {"prompt": "b"}], tokenizer=plain())

    def test_are_counted_by_reason(self):
        preview = lk.preview(
            qa(), data=DATA / "rows-dropped" / "found.jsonl", tokenizer=plain(), on_bad_row="skip"
        )

        assert preview.totals.dropped == {"column 'completion' is missing": 1}
        assert (preview.totals.records, preview.totals.rows) == (2, 1)


def test_the_worst_come_first():
    file = DATA / "eos-never-learned" / "found.jsonl"
    _, task, tokenizer, _ = FINDINGS["eos-never-learned"]
    preview = lk.preview(task, data=file, tokenizer=tokenizer())

    assert preview.findings[0].level == preview.worst == "error"


def test_a_conversation_is_asked_where_its_last_answer_begins():
    """What follows that is no part of the prompt, so it is no difference from it."""
    found = found_in(DATA / "unanswered-turn" / "found.jsonl", CHAT, plain())

    assert "prompt-not-a-prefix" not in found


def test_an_excerpt_begins_and_ends_with_whole_characters():
    """Of a tokenizer that knows bytes alone, a character of Hangul has three tokens."""
    tokenizer = lk.train_tokenizer(kind="bpe", vocab_size=300, data=[{"text": "a"}], task="mlm")
    setting = Setting(lk.get_task("qa"), tokenizer)
    ids = np.array(tokenizer.encode("가나다라마바사"))

    assert len(ids) == 21
    assert setting.beginning(ids) == "가나다라마"
    assert setting.ending(ids) == "다라마바사"
