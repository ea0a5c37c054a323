"""What becomes of the parts that a cluster answers, which here are made by hand."""

import functools
import json
import os
from pathlib import Path

import pytest
from runtime.toybundle import write_bundle

import lmkit as lk
from lmkit.cluster import answering
from lmkit.cluster.answering import Job, answer_file

RECORDS = [{"prompt": f"{number}번"} for number in range(6)]
LINES = [json.dumps({**record, "answer": "네"}, ensure_ascii=False) for record in RECORDS]


@pytest.fixture
def job(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS), "utf-8")
    bundle = write_bundle(tmp_path / "bundle")
    check = functools.partial(lk.load, bundle, threads=1, verify=False)
    return functools.partial(
        Job, source=str(source), open_model=None, check_model=check, options={}, batch_size=2
    )


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    """The last part comes first."""

    def answered(job, todo):
        for first in reversed(range(0, len(LINES), 2)):
            yield first, LINES[first : first + 2]

    monkeypatch.setattr(answering, "_answered", answered)


def test_a_file_has_the_lines_in_order_and_nothing_is_left_beside_it(job, tmp_path):
    output = tmp_path / "answers" / "out.jsonl"

    assert answer_file(job(output=output)).records == len(RECORDS)
    assert output.read_text("utf-8").splitlines() == LINES
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="a system without /dev/fd")
def test_a_pipe_gets_them_in_order_too(job):
    outlet, inlet = os.pipe()

    answer_file(job(output=Path(f"/dev/fd/{inlet}")))

    os.close(inlet)
    with open(outlet, encoding="utf-8") as pipe:
        assert pipe.read().splitlines() == LINES
