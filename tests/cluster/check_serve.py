"""`lmkit serve --engine ray` on a cluster of two nodes: run by `tox -e ray`.

Collected on demand only, as its name says nothing to pytest. The tests share one server, and follow each
other: a replica is killed late, and the last one stops the server.
"""

import http.client
import json
import os
import signal
import socket
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from runtime import toybundle

import lmkit as lk

from .conftest import ENVIRON, Command, until

KEY = "a-key-for-tests"
MOST_BODY = 1 << 20
LONG, LONGER = 3000, 12_000  # tokens that take seconds, so that something can happen meanwhile
REPLICA = "ServeReplica:lmkit"
PLACES = {0: 2, 1: 1}  # replicas of each node


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toybundle, "CONTEXT_LENGTH", LONGER + 100)
        return toybundle.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


class Server:
    def __init__(self, command):
        self.command = command
        line = command.process.stdout.readline()
        assert line, command.end()
        self.facts = json.loads(line)
        self.address = urllib.parse.urlsplit(self.facts["url"]).netloc

    def open(self, path, body=None, *, key=KEY):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"content-type": "application/json", "connection": "close"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        connection.request("GET" if body is None else "POST", path, content, headers)
        return connection.getresponse()

    def ask(self, path, body=None, **options):
        response = self.open(path, body, **options)
        return response.status, json.loads(response.read() or "null")


@pytest.fixture(scope="module")
def server(two_nodes, bundle):
    command = Command(
        *(
            "serve",
            bundle,
            "--engine",
            "ray",
            "--address",
            two_nodes.address,
            "--port",
            0,
            "--json",
        ),
        *("--threads", 1, "--max-body", MOST_BODY, "--drain", 60),
        environ={**ENVIRON, "LMKIT_API_KEY": KEY},
    )
    try:
        yield Server(command)
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.communicate()


class Stream(threading.Thread):
    """A long answer that is read as it is written."""

    def __init__(self, server, count):
        super().__init__()
        self.events = []
        body = {"model": "toy", "prompt": "하나", "max_tokens": count, "min_new_tokens": count}
        self.response = server.open("/v1/completions", {**body, "stream": True})
        self.start()

    def run(self):
        with self.response:
            for line in self.response:
                if line.startswith(b"data: "):
                    self.events.append(line[6:].strip())

    def stop(self):
        """Hang up."""
        self.response.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        self.join()


def computing(two_nodes):
    """Return for how long replicas computed in half a second, in seconds."""

    def spent():
        pids = [pid for some in two_nodes.workers(REPLICA).values() for pid in some]
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
        return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")

    before = spent()
    time.sleep(0.5)
    return spent() - before


def test_there_is_a_replica_for_each_core_of_both_nodes(server, two_nodes):
    on = two_nodes.workers(REPLICA)

    assert {index: len(replicas) for index, replicas in on.items()} == PLACES
    assert server.facts["models"] == ["toy"]
    assert server.facts["api_key"] is True


def test_every_replica_answers_as_the_bundle_does_alone(server, bundle):
    ask = lk.load(bundle, threads=1, verify=False)
    wanted = ask({"prompt": "안녕?"}, max_new_tokens=20).text

    found = [server.ask("/v1/tasks/toy?max_new_tokens=20", {"prompt": "안녕?"}) for _ in range(12)]

    assert [(status, answer["text"]) for status, answer in found] == [(200, wanted)] * 12


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/v1/models", "/v1/models/toy", "/v1/tasks", "/openapi.json"]
)
def test_what_there_is_to_read_is_there(server, path):
    status, found = server.ask(path)

    assert status == 200
    assert found


@pytest.mark.parametrize("key", [None, "another"])
def test_who_has_no_key_is_not_answered(server, key):
    status, found = server.ask("/v1/completions", {"model": "toy", "prompt": "x"}, key=key)

    assert status == 401
    assert found["error"]["code"] == "invalid_api_key"


def test_a_body_beyond_the_limit_is_refused(server):
    status, found = server.ask("/v1/completions", {"model": "toy", "prompt": "x" * MOST_BODY})

    assert status == 413
    assert found["error"]["message"]


def test_a_model_that_is_not_there_is_told_in_openais_shape(server):
    status, found = server.ask("/v1/completions", {"model": "tow", "prompt": "x"})

    assert status == 404
    assert found["error"]["code"] == "model_not_found"


def test_who_hangs_up_frees_its_place(server, two_nodes):
    idle = computing(two_nodes)
    stream = Stream(server, LONGER)
    until(lambda: stream.events, what="the first piece of an answer")
    begun = time.monotonic()
    working = computing(two_nodes)
    pieces = len(stream.events)
    a_piece = (time.monotonic() - begun) / pieces
    stream.stop()
    until(lambda: computing(two_nodes) < (idle + working) / 2, what="that nobody computes")

    assert working > idle + 0.1
    assert time.monotonic() - begun < a_piece * LONGER / 2


def test_a_replica_that_is_killed_is_started_again_and_the_others_answer(server, two_nodes):
    killed = two_nodes.workers(REPLICA)[0][0]
    os.kill(killed, signal.SIGKILL)

    def answers():
        status, _ = server.ask("/v1/completions", {"model": "toy", "prompt": "x", "max_tokens": 2})
        return status == 200

    def whole():
        on = two_nodes.workers(REPLICA)
        return killed not in on[0] and {i: len(some) for i, some in on.items()} == PLACES

    until(lambda: all(answers() for _ in range(6)), what="six answers in a row")
    until(whole, what="as many replicas as before")


def test_a_signal_lets_nothing_more_in_and_answers_end_whole(server):
    """The last test: the server is gone behind it."""
    streams = [Stream(server, LONG) for _ in range(2)]
    until(lambda: all(stream.events for stream in streams), what="the first pieces of answers")
    server.command.process.send_signal(signal.SIGTERM)
    until(lambda: server.ask("/ready")[0] == 503, what="not ready")
    refused, problem = server.ask("/v1/completions", {"model": "toy", "prompt": "x"})
    alive, _ = server.ask("/health")
    for stream in streams:
        stream.join()
    code, _, err = server.command.end()

    assert (refused, problem["error"]["code"]) == (503, "stopping")
    assert alive == 200
    assert [stream.events[-1] for stream in streams] == [b"[DONE]"] * 2
    assert code == 0, err
    assert "Traceback" not in err
