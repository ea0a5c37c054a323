"""Floods, clients that hang up, answers that take too long, and the end of the server, with a slow model."""

import json
import signal
import socket
import struct
import threading
import time

import httpx
import pytest

from .conftest import SLOWLY
from .served import Served, request, status, until

ASK = {"model": "toy", "prompt": "안녕", "max_tokens": 30, "temperature": 0}
RESET = struct.pack("ii", 1, 0)  # no time to linger: closing is a reset


def measured(server, name):
    """Return the sum of one of the server's measurements."""
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def events(answer):
    """Yield what a stream sends: JSON, and the word that ends it."""
    for line in answer.iter_lines():
        if line:
            sent = line.removeprefix("data: ")
            yield sent if sent == "[DONE]" else json.loads(sent)


@pytest.fixture(scope="module")
def narrow(bundle):
    """A slow server that writes one answer at a time, while four others wait."""
    flags = ("--port", 0, "--json", "--max-rows", 1, "--max-waiting", 4)
    with Served(SLOWLY, "serve", bundle, *flags, STEP_S="0.02") as server:
        yield server


class Streaming(threading.Thread):
    """A client that reads a stream to its end."""

    def __init__(self, server, **asked):
        super().__init__()
        self.url, self.asked = server.url, {**ASK, "stream": True, **asked}
        self.events = []
        self.start()

    def run(self):
        with httpx.stream(
            "POST", f"{self.url}/v1/completions", json=self.asked, timeout=60
        ) as answer:
            self.status = answer.status_code
            self.events.extend(events(answer))

    @property
    def text(self):
        pieces = [event["choices"] for event in self.events if "choices" in event]
        return "".join(choices[0]["text"] for choices in pieces if choices)


class TestFlood:
    def test_beyond_the_queue_is_told_when_to_come_again(self, narrow):
        server = narrow
        answers = []

        def ask():
            answers.append(server.post("/v1/completions", {**ASK, "max_tokens": 10}))

        asks = [threading.Thread(target=ask) for _ in range(40)]
        for one in asks:
            one.start()
        for one in asks:
            one.join()
        taken = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]

        assert 5 <= len(taken) < 40
        assert len({answer.json()["choices"][0]["text"] for answer in taken}) == 1
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {answer.json()["error"]["type"] for answer in refused} == {"rate_limit_error"}
        assert server.post("/v1/completions", {**ASK, "max_tokens": 1}).status_code == 200


class TestWhoHangsUp:
    @pytest.mark.parametrize("streams", [True, False])
    @pytest.mark.parametrize("resets", [True, False])
    def test_frees_the_row_at_once(self, slow, streams, resets):
        before = measured(slow, "lmkit_cancelled_total")
        body = json.dumps({**ASK, "max_tokens": 50, "stream": streams}).encode()
        with slow.line(request("/v1/completions", body)) as raw:
            until(lambda: measured(slow, "lmkit_rows") == 1)
            if resets:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        until(lambda: measured(slow, "lmkit_rows") == 0, 60)
        assert measured(slow, "lmkit_cancelled_total") == before + 1

    def test_while_waiting_for_a_row_never_gets_one(self, narrow):
        before = measured(narrow, "lmkit_cancelled_total")
        first = Streaming(narrow)
        until(lambda: first.events)
        with narrow.line(request("/v1/completions", json.dumps(ASK).encode())):
            until(lambda: measured(narrow, "lmkit_waiting") == 1)
        until(lambda: measured(narrow, "lmkit_waiting") == 0)
        first.join()

        assert measured(narrow, "lmkit_cancelled_total") == before + 1
        assert first.events[-1] == "[DONE]"

    def test_again_and_again_costs_no_memory(self, slow):
        body = json.dumps({**ASK, "stream": True}).encode()

        def hang_up(times):
            for _ in range(times):
                with slow.line(request("/v1/completions", body)) as raw:
                    assert status(raw.recv(4096)) == 200

        hang_up(20)
        before = slow.resident()
        hang_up(60)

        assert slow.resident() - before < 20 << 20
        until(lambda: measured(slow, "lmkit_rows") == 0)


def test_who_reads_slowly_slows_nobody(slow):
    body = json.dumps({**ASK, "stream": True}).encode()
    with slow.line(request("/v1/completions", body), receive_bytes=2048) as raw:
        swift = Streaming(slow)
        swift.join()
        assert swift.events[-1] == "[DONE]"
        assert until(lambda: measured(slow, "lmkit_rows") == 0)
        time.sleep(0.1)
        read = b""
        while b"[DONE]" not in read:
            read += raw.recv(256)

    sent = [line[6:] for line in read.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(json.loads(line)["choices"][0]["text"] for line in sent)
    assert text == swift.text


def test_an_answer_that_is_not_whole_in_time_ends_with_an_error(serving):
    server = serving("--timeout", 0.4)
    whole = server.post("/v1/completions", {**ASK, "max_tokens": 50})
    stream = Streaming(server, max_tokens=50)
    stream.join()
    [error] = [event["error"] for event in stream.events if "error" in event]

    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == error["code"] == "deadline_exceeded"
    assert stream.status == 200
    assert stream.text
    assert server.post("/v1/completions", {**ASK, "max_tokens": 1}).status_code == 200


class TestStopping:
    def test_whoever_is_answered_or_waits_is_answered_whole(self, serving):
        server = serving("--max-rows", 2, step_s=0.02)
        alone = server.post("/v1/completions", ASK).json()["choices"][0]["text"]
        streams = [Streaming(server) for _ in range(4)]
        until(lambda: measured(server, "lmkit_waiting") == 2)
        server.kill()
        for stream in streams:
            stream.join()

        assert [stream.text for stream in streams] == [alone] * 4
        assert {stream.events[-1] for stream in streams} == {"[DONE]"}
        assert server.ended(60) == (0, "")

    def test_an_answer_that_takes_longer_than_the_drain_ends_with_an_error(self, serving):
        server = serving("--drain", 0.3)
        stream = Streaming(server, max_tokens=50)
        until(lambda: stream.events)
        server.kill()
        stream.join()

        assert any("error" in event for event in stream.events)
        assert server.ended(60)[0] == 0

    def test_a_second_signal_ends_it_at_once(self, serving):
        server = serving()
        with server.line(request("/v1/completions", json.dumps(ASK).encode())):
            until(lambda: measured(server, "lmkit_rows") == 1)
            server.kill()
            until(lambda: any("stopping" in line for line in server.log))
            server.kill()

            assert server.ended(60)[0] == 128 + signal.SIGTERM
