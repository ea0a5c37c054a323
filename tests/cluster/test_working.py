"""What a worker does with a part, without a cluster around it."""

import functools
import json
import pickle
import re
import socket

import pytest
from runtime.toybundle import write_bundle

import lmkit as lk
from lmkit.cluster.spans import Span
from lmkit.cluster.working import (
    MOST_ATTEMPTS,
    Attempts,
    Work,
    Worker,
    first_of,
    read_parts,
)
from lmkit.errors import BundleError, ModelError, RecordError

COUNT = 11


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"prompt": f"{i}번", "n": i}, ensure_ascii=False) for i in range(COUNT)]
    path.write_text("\n\n".join(lines), "utf-8")
    return str(path)


def parts(source, *spans, size=4):
    return list(read_parts({}, source=source, spans=spans, size=size))


def worker(bundle, begin=lambda first: 1):
    open_model = functools.partial(lk.load, bundle, threads=1, verify=False)
    return Worker(Work(open_model=open_model, options={"max_new_tokens": 3}, batch_size=3), begin)


def answered(worker, tables):
    # As Ray Data hands them back.
    rows = [{name: cells[0] for name, cells in worker(table).items()} for table in tables]
    return dict(first_of(rows))


def test_the_parts_of_a_file_are_its_rows_with_their_places(source):
    found = parts(source, Span(1, 6), Span(9, 2))

    assert [part["first"] for part in found] == [[1], [5], [9]]
    rows = [row for part in found for row in pickle.loads(part["rows"][0])]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5, 6, 9, 10]
    assert rows[-1].where == f"{source}:21"


def test_a_part_is_answered_as_single_calls_would(bundle, source):
    lines = answered(worker(bundle), parts(source, Span(0, COUNT)))

    ask = lk.load(bundle, threads=1)
    found = [json.loads(line) for first in sorted(lines) for line in lines[first]]
    assert [line["n"] for line in found] == list(range(COUNT))
    for line in found:
        assert line["answer"]["text"] == ask({"prompt": line["prompt"]}, max_new_tokens=3).text


def test_a_worker_opens_the_model_once_and_not_before_there_is_work(source, bundle):
    opened = []
    one = Worker(
        Work(open_model=lambda: opened.append(1) or lk.load(bundle), options={}, batch_size=8),
        lambda first: 1,
    )
    assert opened == []

    answered(one, parts(source, Span(0, COUNT)))

    assert opened == [1]


def test_a_model_that_is_not_there_is_told_with_the_node_that_lacks_it(tmp_path, source):
    here = re.escape(socket.gethostname())

    with pytest.raises(BundleError, match=rf"there is no bundle .*\(on the node {here}\)"):
        answered(worker(tmp_path / "nowhere"), parts(source, Span(0, 1)))


def test_an_input_that_has_changed_meanwhile_is_told(bundle, source):
    with open(source, "a", encoding="utf-8") as file:
        file.write("\n{half")

    with pytest.raises(RecordError, match=r"in\.jsonl:22: not valid JSON"):
        answered(worker(bundle), parts(source, Span(0, COUNT + 1)))


@pytest.mark.parametrize("kept", [0, 8, 9])
def test_an_input_that_has_lost_records_meanwhile_is_told(bundle, source, kept):
    with open(source, encoding="utf-8") as file:
        lines = file.readlines()
    with open(source, "w", encoding="utf-8") as file:
        file.writelines(lines[: 2 * kept])

    with pytest.raises(RecordError, match=rf"in\.jsonl: has {kept} records now, and had more"):
        answered(worker(bundle), parts(source, Span(0, COUNT)))


def test_a_part_that_ends_every_worker_it_comes_to_is_given_up(bundle, source):
    attempts = Attempts()
    part = parts(source, Span(0, 4), Span(4, 4))
    for _ in range(MOST_ATTEMPTS):
        attempts.begin(0)

    with pytest.raises(ModelError, match=r"in\.jsonl:1 to .*in\.jsonl:7: 4 workers ended"):
        answered(worker(bundle, attempts.begin), part[:1])
    assert len(answered(worker(bundle, attempts.begin), part[1:])[4]) == 4
