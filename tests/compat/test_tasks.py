"""Tasks of every make that earlier versions wrote down are read, and give the same ids and labels."""

import json

import pytest

import lmkit as lk
from compat.archives import SAVED, unpacked
from lmkit.mixing import Mixture
from lmkit.saving.jsonform import to_json
from lmkit.saving.taskfile import read_task

FILES = sorted(SAVED.glob("*-tasks.json"))
SAID = [
    pytest.param(entry, id=f"{file.stem.removesuffix('-tasks')} {name}")
    for file in FILES
    for name, entry in json.loads(file.read_text("utf-8")).items()
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Return the folder of the tokenizer that the rows were encoded with."""
    return unpacked(SAVED / "issue-2-chat.zip", tmp_path_factory.mktemp("chat")).bundle


@pytest.mark.parametrize("entry", SAID)
def test_a_task_is_read_and_gives_the_same_rows(entry, tokenizer, tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(entry["task"]), "utf-8")

    task = read_task(path)

    assert type(task) is (Mixture if entry["task"]["type"] == "Mixture" else lk.Task)
    rows = lk.encode(task, entry["records"], tokenizer) if entry["records"] else []
    assert [[row.input_ids.tolist(), row.labels.tolist()] for row in rows] == entry["rows"]


@pytest.mark.parametrize("entry", SAID)
def test_what_is_written_of_it_today_is_read_as_the_same_task(entry, tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(entry["task"]), "utf-8")
    task = read_task(path)

    path.write_text(json.dumps(to_json(task)), "utf-8")

    assert read_task(path) == task


def test_each_issue_has_some_and_the_newest_the_most():
    counts = [len(json.loads(file.read_text("utf-8"))) for file in FILES]

    assert counts == sorted(counts)
    assert len(FILES) >= 4
