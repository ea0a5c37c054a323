"""Runs that earlier versions trained are read, answered, exported and kept on by this one."""

import json

import pytest

import lmkit as lk
from compat.archives import ARCHIVES, unpacked
from lmkit.answering import open_answerer
from lmkit.saving.jsonform import to_json
from lmkit.saving.taskfile import SCHEMA, read_task
from lmkit.train.folder import Run, task_document


def test_its_task_is_read_and_written_in_todays_form(saved, tmp_path):
    task = read_task(saved.run / "task.json")

    (tmp_path / "task.json").write_text(json.dumps(task_document(task)), "utf-8")

    assert read_task(tmp_path / "task.json") == task
    assert json.loads((tmp_path / "task.json").read_text("utf-8"))["schema"] == SCHEMA.newest


def test_what_it_says_of_its_task_is_what_is_read(saved):
    """Keys that came later have their defaults; what was written stands."""
    written = saved.json("run/task.json")
    read = to_json(read_task(saved.run / "task.json"))

    assert contains(read, {key: part for key, part in written.items() if key in read})


def test_it_is_a_run(saved):
    run = Run.open(saved.run)

    assert run.task.name == saved.json("run/task.json")["name"]
    about = saved.json("run/run.json")
    assert run.parameters == about.get("parameters", {})
    assert (run.cut, run.n_empty) == (about["cut"], about.get("empty", 0))


def test_it_answers_as_its_bundle_did(saved):
    ask = open_answerer(saved.run)

    for was in saved.answers:
        assert ask(was["record"], **saved.options).text == was["text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["issue-2-causal", "issue-3-seq2seq"])
def test_a_bundle_made_of_it_today_answers_as_the_one_that_was_made_then(name, tmp_path):
    [archive] = [archive for archive in ARCHIVES if archive.stem == name]
    old = unpacked(archive, tmp_path)

    lk.export(old.run, output=tmp_path / "again")

    ask = lk.load(tmp_path / "again")
    for was in old.answers:
        assert ask(was["record"], **old.options).text == was["text"]


def contains(now, was):
    """Say whether everything that was written is there, keys that came later aside."""
    if isinstance(was, dict):
        return now.keys() >= was.keys() and all(contains(now[key], was[key]) for key in was)
    if isinstance(was, list):
        return len(now) == len(was) and all(map(contains, now, was))
    return now == was
