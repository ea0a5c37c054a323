"""The verb preview: exit codes, one JSON document, and text that tells learned from read."""

import json

import pytest

from lmkit.previewing.saving import from_json

QA = [{"prompt": f"질문 {n}", "completion": f"대답 {n}"} for n in range(5)]


@pytest.fixture
def model(toy, tmp_path):
    toy.save(tmp_path / "model")
    return tmp_path / "model"


def test_what_is_learned_stands_between_marks_where_there_is_no_colour(lmkit, jsonl, model):
    done = lmkit("preview", "qa", "--data", jsonl(QA), "--model", model)

    assert done.code == 0
    assert "질문: 질문 0↵\n답변:« 대답 0⟦<|endoftext|>⟧»" in done.out
    assert "\x1b" not in done.out


def test_json_is_one_document_of_the_whole_preview(lmkit, jsonl, model):
    done = lmkit("preview", "qa", "--data", jsonl(QA), "--model", model, "--rows", 1, "--json")
    found = from_json(json.loads(done.out))

    assert done.code == 0
    assert (found.task, found.family, found.totals.rows) == ("qa", "causal", 5)
    assert (
        "".join(t.text for t in found.shown[0].tokens if t.kind == "read") == "질문: 질문 0\n답변:"
    )


def test_rows_are_chosen_by_their_place(lmkit, jsonl, model):
    done = lmkit(
        "preview", "qa", "--data", jsonl(QA), "--model", model, "--rows", 0, "--row", 3, "--json"
    )

    chosen = [row for row in json.loads(done.out)["shown"] if row["why"] == "chosen"]
    assert [row["index"] for row in chosen] == [3]
    assert chosen[0]["where"].endswith("data.jsonl:4")


def test_a_row_that_is_not_there_is_refused(lmkit, jsonl, model):
    done = lmkit("preview", "qa", "--data", jsonl(QA), "--model", model, "--row", 5)

    assert done.code == 1
    assert "there is no row 5; the rows are 0 to 4" in done.err


def test_without_a_tokenizer_it_says_what_is_needed(lmkit, jsonl):
    done = lmkit("preview", "qa", "--data", jsonl(QA))

    assert done.code == 1
    assert "a preview needs a tokenizer" in done.err


def test_a_tokenizer_alone_gives_the_preview_its_name(lmkit, jsonl, model):
    done = lmkit("preview", "qa", "--data", jsonl(QA), "--tokenizer", model, "--json")

    assert json.loads(done.out)["model"] == str(model)


def test_a_page_is_written_over_the_last_one(lmkit, jsonl, model, tmp_path):
    page = tmp_path / "preview.html"
    for _ in range(2):
        done = lmkit("preview", "qa", "--data", jsonl(QA), "--model", model, "--html", page)

    assert done.code == 0
    assert f"wrote {page}" in done.err
    assert "질문 0" in page.read_text(encoding="utf-8")


def test_where_every_row_is_bad_and_skipped_it_says_why(lmkit, jsonl, model):
    data = jsonl([{"q": "질문"}, {"q": "또"}])

    done = lmkit("preview", "qa", "--data", data, "--model", model, "--on-bad-row", "skip")

    assert done.code == 1
    assert "every row of it is bad; the first: " in done.err
    assert "data.jsonl:1: column 'completion' is missing; the record has q" in done.err


def test_a_page_makes_its_folder(lmkit, jsonl, model, tmp_path):
    page = tmp_path / "새 폴더" / "page.html"

    done = lmkit("preview", "qa", "--data", jsonl(QA), "--model", model, "--html", page)

    assert done.code == 0
    assert page.read_text("utf-8").startswith("<!")
