"""What training says of its data before the first step, and what it refuses."""

import json

import attrs
import pytest

import lmkit as lk
from lmkit.errors import FindingsError
from lmkit.formatting import Segment
from lmkit.previewing import saving
from lmkit.train import inspecting
from lmkit.train.lessons import encoded, open_lessons


@attrs.frozen
class Endless:
    """Lets its end token stand behind what is learned."""

    columns = prompt_columns = ("prompt",)
    learns = delimited = True

    def segments(self, record, dialect=None):
        return [
            *self.prompt(record),
            Segment("네", learn=True),
            Segment("<|endoftext|>", trusted=True),
        ]

    def prompt(self, record, dialect=None):
        return [Segment(record["prompt"])]

    def stop_tokens(self, dialect):
        return ()

    def chat_template(self, dialect):
        return None


def lesson(task, rows, tokenizer):
    opened = open_lessons(task, data=rows, eval_data=None, eval_fraction=None, seed=0)[0]
    return encoded(opened, task, tokenizer)


@pytest.fixture
def endless():
    return lk.get_task("qa").evolve(formatter=Endless())


def test_it_finds_what_preview_finds(toy):
    rows = [{"prompt": f"질문 {n % 3}", "completion": ""} for n in range(5)]
    task = lk.get_task("qa")

    (inspected,) = inspecting.inspected([lesson(task, rows, toy)], toy, model="toy")
    seen = lk.preview(task, data=rows, tokenizer=toy)

    assert [f.name for f in inspected.findings] == [f.name for f in seen.findings]
    assert inspected.totals == seen.totals


def test_an_error_is_refused_with_the_row_and_the_remedy(toy, endless):
    previews = inspecting.inspected([lesson(endless, [{"prompt": "왜?"}], toy)], toy, model="toy")

    with pytest.raises(FindingsError) as caught:
        inspecting.check_findings(previews)

    assert caught.value.names == ("eos-never-learned",)
    assert "eos-never-learned: 1 of 1 rows, such as rows:0" in str(caught.value)
    assert "--ignore-findings" in str(caught.value)


def test_a_warning_is_not(toy):
    rows = [{"prompt": "왜?", "completion": ""}]
    previews = inspecting.inspected([lesson(lk.get_task("qa"), rows, toy)], toy, model="toy")

    inspecting.check_findings(previews)

    assert previews[0].worst == "warning"


def test_the_first_row_and_each_finding_are_shown_on_standard_error(toy, capsys):
    rows = [{"prompt": "왜?", "completion": ""}, {"prompt": "왜?", "completion": "그냥"}]
    inspecting.show(inspecting.inspected([lesson(lk.get_task("qa"), rows, toy)], toy, model="toy"))
    shown = capsys.readouterr()

    assert shown.out == ""
    assert "질문: 왜?↵\n답변:« ⟦<|endoftext|>⟧»" in shown.err
    assert "warning empty-answer (1 of 2)" in shown.err
    assert "그냥" not in shown.err


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_found_is_kept_as_json(toy, tmp_path, count):
    rows = [{"prompt": "왜?", "completion": "그냥"}]
    previews = inspecting.inspected(
        [lesson(lk.get_task("qa"), rows, toy)] * count, toy, model="toy"
    )
    file = tmp_path / saving.PREVIEW_FILE

    saving.save(previews, file)

    assert saving.read(file) == previews
    assert isinstance(json.loads(file.read_text("utf-8")), dict if count == 1 else list)


def test_a_run_keeps_what_was_found_in_its_data(fit, rows, tmp_path):
    run = fit(tmp_path / "run", data=[*rows, rows[0]])
    (preview,) = saving.read(run.path / saving.PREVIEW_FILE)

    assert preview.totals.rows == len(rows) + 1
    assert "duplicate-rows" in {finding.name for finding in preview.findings}


def test_nothing_is_left_behind_where_the_data_is_refused(fit, tmp_path):
    task = lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=10))

    with pytest.raises(FindingsError, match="answer-cut"):
        fit(tmp_path / "run", task=task)

    assert not (tmp_path / "run").exists()
