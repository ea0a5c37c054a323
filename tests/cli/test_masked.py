"""The verbs on a masked task: its fills as a table, its masks in `show`, and what cannot be set."""

import json

import pytest
from runtime.toymasked import RECORD, write_masked_bundle

import lmkit as lk


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_masked_bundle(tmp_path_factory.mktemp("masked") / "bundle")


def lines(done):
    assert done.code == 0, done.err
    return [line.split() for line in done.out.splitlines()]


class TestGenerate:
    def test_prints_the_fills_of_one_mask_as_a_table(self, lmkit, bundle):
        fills = lk.load(bundle)({"text": "영화는 [MASK]!"}).value
        title, *rows = lines(lmkit("generate", bundle, "--set", "text=영화는 [MASK]!"))

        assert title == ["score", "token", "sequence"]
        assert [row[1] for row in rows] == [fill["token_str"] for fill in fills]
        assert [float(row[0]) for row in rows] == [round(fill["score"], 4) for fill in fills]
        assert " ".join(rows[0][2:]) == fills[0]["sequence"]

    def test_prints_which_of_several_masks_a_fill_is_for(self, lmkit, bundle):
        title, *rows = lines(lmkit("generate", bundle, "--set", f"text={RECORD['text']}"))

        assert title == ["mask", "score", "token", "sequence"]
        assert [row[0] for row in rows] == ["1"] * 5 + ["2"] * 5

    def test_prints_the_value_as_json(self, lmkit, bundle):
        done = lmkit("generate", bundle, "--set", f"text={RECORD['text']}", "--json")
        answer = json.loads(done.out)

        assert answer["value"] == lk.load(bundle)(RECORD).value
        assert answer["finish_reason"] == "stop"

    def test_streams_the_filled_text(self, lmkit, bundle):
        done = lmkit("generate", bundle, "--set", f"text={RECORD['text']}", "--stream")

        assert done.out == lk.load(bundle)(RECORD).text + "\n"

    def test_answers_a_file(self, lmkit, bundle, jsonl):
        texts = ["[MASK]", "a [MASK] film", RECORD["text"]]
        file = jsonl([{"text": text} for text in texts])
        found = [
            json.loads(" ".join(line)) for line in lines(lmkit("generate", bundle, "--input", file))
        ]

        assert [line["text"] for line in found] == texts
        assert [len(line["answer"]["value"]) for line in found] == [5, 5, 2]

    def test_refuses_a_text_without_a_mask(self, lmkit, bundle):
        done = lmkit("generate", bundle, "--set", "text=영화는")

        assert (done.code, done.out) == (1, "")
        assert "there is nothing to fill: put [MASK] where a token is wanted" in done.err

    def test_names_the_line_without_a_mask_before_any_answer(self, lmkit, bundle, jsonl):
        file = jsonl([{"text": "[MASK]"}, {"text": "a film"}])
        done = lmkit("generate", bundle, "--input", file)

        assert (done.code, done.out) == (1, "")
        assert f"{file}:2: there is nothing to fill" in done.err

    def test_refuses_options_for_text_that_is_written_freely(self, lmkit, bundle):
        done = lmkit("generate", bundle, "--set", "text=[MASK]", "--temperature", "0.3")

        assert (done.code, done.out) == (1, "")
        assert "task 'mlm' fills masks" in done.err
        assert "temperature cannot be set" in done.err


class TestShow:
    def test_says_what_may_be_hidden_and_draws_once(self, lmkit):
        done = lmkit("show", "mlm", "--json")
        stages = json.loads(done.out)
        hidden = [place for place, label in enumerate(stages["drawn"]) if label >= 0]

        assert stages["n_learned"] == len(stages["tokens"])
        assert "<|mask|>" in stages["prompt"]
        assert 0 < len(hidden) < len(stages["labels"])
        assert all(stages["drawn"][place] == stages["labels"][place] for place in hidden)

    def test_prints_both(self, lmkit):
        done = lmkit("show", "mlm")

        assert done.code == 0
        assert "may be hidden" in done.out
        assert "in one draw" in done.out
        assert "'<|mask|>'" in done.out


def test_verify_and_evaluate_take_such_a_bundle(lmkit, bundle, jsonl):
    file = jsonl([{"text": "영화는 정말 좋았다!"}])

    assert "2 fills are the same" in lmkit("verify", bundle).out
    assert json.loads(lmkit("evaluate", bundle, "--data", file, "--json").out)["tokens"] >= 1
