"""`lmkit generate --engine ray` on a cluster of two nodes: run by `tox -e ray`.

Collected on demand only, as its name says nothing to pytest.
"""

import json
import os
import signal

import pytest
from runtime.toybundle import write_bundle

from .conftest import until

COUNT = 900


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "in.jsonl"
    rows = [{"prompt": f"{i}번 질문" + "?" * (i % 7), "n": i} for i in range(COUNT)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def wanted(bundle, source, tmp_path_factory):
    """Return what the local engine writes."""
    from .conftest import Command

    output = tmp_path_factory.mktemp("local") / "out.jsonl"
    code, _, err = Command("generate", bundle, "--input", source, "--output", output, *LONG).end()
    assert code == 0, err
    return output.read_bytes()


LONG = ("--max-new-tokens", 40)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.fixture
def answering(lmkit, two_nodes, bundle, source, output):
    """Return a function that begins to answer the file on the cluster."""
    return lambda *more: lmkit(
        *("generate", bundle, "--input", source, "--output", output, *LONG, "--threads", 1),
        *("--engine", "ray", "--address", two_nodes.address, *more),
    )


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def some_are_written(path):
    return until(lambda: lines_in(path), what="an answer in the output")


def test_the_lines_are_those_of_the_local_engine_and_both_nodes_write_them(
    answering, two_nodes, output, wanted
):
    command = answering()
    some_are_written(output)
    on = until(
        lambda: all((found := two_nodes.workers()).values()) and found, what="workers on each node"
    )
    code, out, err = command.end()

    assert (code, out) == (0, "")
    assert f"{COUNT} answers in {output}" in err
    assert output.read_bytes() == wanted
    assert {index: len(workers) for index, workers in on.items()} == {0: 2, 1: 1}
    assert list(output.parent.iterdir()) == [output]


def test_a_worker_that_is_killed_loses_no_row_and_repeats_none(
    answering, two_nodes, output, wanted
):
    command = answering()
    written = some_are_written(output)
    for workers in two_nodes.workers().values():
        os.kill(workers[0], signal.SIGKILL)
    code, _, err = command.end()

    assert written < COUNT
    assert code == 0, err
    assert output.read_bytes() == wanted


def test_a_run_that_is_killed_goes_on_where_it_stopped(
    answering, lmkit, bundle, source, output, wanted
):
    """On the cluster first, and then with the engine of one process."""
    first = answering()
    some_are_written(output)
    first.process.kill()
    first.end()
    half = output.read_bytes()
    second = answering("--json")
    until(lambda: lines_in(output) > half.count(b"\n"), what="one more answer")
    second.process.send_signal(signal.SIGINT)
    interrupted, _, err = second.end()
    more = output.read_bytes()
    third = lmkit("generate", bundle, "--input", source, "--output", output, *LONG, "--json")
    code, out, _ = third.end()

    assert 0 < len(half) < len(more) < len(wanted)
    assert interrupted == 130, err
    assert wanted.startswith(half[: half.rfind(b"\n") + 1])
    assert wanted.startswith(more[: more.rfind(b"\n") + 1])
    assert code == 0
    assert json.loads(out)["already_there"] == more.count(b"\n")
    assert output.read_bytes() == wanted


def test_without_an_address_the_machine_is_the_cluster_and_lines_go_to_standard_output(
    lmkit, bundle, source, tmp_path, wanted
):
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:20]))

    code, out, err = lmkit(
        *("generate", bundle, "--input", few, *LONG, "--engine", "ray", "--workers", 2),
        *("--threads", 1),
    ).end()

    assert code == 0, err
    assert out.encode() == b"".join(wanted.splitlines(keepends=True)[:20])


def test_what_is_wrong_is_told_before_a_cluster_is_asked(lmkit, bundle, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"promt": "b"}\n', "utf-8")

    code, _, err = lmkit(
        "generate", bundle, "--input", bad, "--engine", "ray", "--address", "127.0.0.1:1"
    ).end()

    assert code == 1
    assert "bad.jsonl:2" in err
    assert "Traceback" not in err


def test_an_address_where_there_is_no_cluster_is_told(lmkit, bundle, source):
    code, _, err = lmkit(
        "generate", bundle, "--input", source, "--engine", "ray", "--address", "127.0.0.1:1"
    ).end()

    assert code == 1
    assert "there is no ray cluster to join at '127.0.0.1:1'" in err
    assert "Traceback" not in err


def test_a_node_that_is_lost_loses_no_row_and_repeats_none(answering, two_nodes, output, wanted):
    """The last test, as the cluster has one node fewer from here on."""
    command = answering()
    written = some_are_written(output)
    two_nodes.lose(1)
    code, _, err = command.end()

    assert written < COUNT
    assert code == 0, err
    assert output.read_bytes() == wanted
