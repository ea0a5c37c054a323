"""Clients that are slow, gone, greedy or no HTTP clients at all: each is sent away, and others are served."""

import contextlib
import signal
import socket
import struct
import threading
import time

import httpx
import pytest

from .served import Served, answer, request, status, until, whole

PATIENCE = {"head_seconds": 1, "head_bytes": 8192, "unread_seconds": 1, "closing_seconds": 1}
SETTINGS = {"max_body_bytes": 20_000, "body_timeout": 1}


@pytest.fixture(scope="module")
def impatient():
    """A server whose patience is short."""
    with Served.standin(patience=PATIENCE, settings=SETTINGS) as server:
        yield server
        assert server.process.poll() is None


@pytest.fixture
def server(impatient):
    """The same, and it must serve after each test as it did before."""
    yield impatient
    began = time.monotonic()
    assert impatient.post("/echo", "after").json() == "after"
    assert time.monotonic() - began < 30


class TestHead:
    def test_that_does_not_end_in_time_is_told_so(self, server):
        with server.line(b"POST /echo HTTP/1.1\r\nHost: local") as raw:
            read = whole(raw)

        assert status(read) == 408
        assert b"took too long" in read

    def test_that_comes_a_byte_at_a_time_gets_no_more_time(self, server):
        began = time.monotonic()
        with server.line(b"GET /") as raw:
            threading.Thread(target=dribble, args=(raw,), daemon=True).start()
            assert status(whole(raw)) == 408

        assert time.monotonic() - began < 30

    def test_of_many_lines_is_refused_when_it_has_too_many_bytes(self, server):
        lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 100) for number in range(80))
        with server.line(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + lines) as raw:
            assert status(whole(raw)) == 431

    def test_of_one_endless_line_is_refused(self, server):
        with server.line(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000) as raw:
            assert status(whole(raw)) == 431

    def test_of_an_endless_address_is_refused(self, server):
        with server.line(b"GET /" + b"x" * 9000) as raw:
            assert status(whole(raw)) == 431


def test_who_connects_and_says_nothing_is_let_go(server):
    with server.line() as raw:
        assert whole(raw) == b""


class TestBody:
    def test_that_never_comes_is_told_so(self, server):
        with server.line(request("/echo", b"x" * 100)[:-50]) as raw:
            read = answer(raw)

        assert status(read) == 408
        assert b"body was not there after 1 seconds" in read

    def test_that_comes_a_byte_at_a_time_gets_no_more_time(self, server):
        began = time.monotonic()
        with server.line(request("/echo", b"x" * 1000)[:-1000]) as raw:
            threading.Thread(target=dribble, args=(raw,), daemon=True).start()
            assert status(answer(raw)) == 408

        assert time.monotonic() - began < 30

    def test_that_is_announced_as_too_large_is_refused_before_it_comes(self, server):
        with server.line(request("/echo", b"x" * 30_000)[:-30_000]) as raw:
            read = answer(raw)

        assert status(read) == 413
        assert b"more than 20000 bytes" in read

    def test_that_turns_out_to_be_too_large_is_refused(self, server):
        pieces = (b'"' + b"x" * 1000 for _ in range(100))

        done = httpx.post(
            f"{server.url}/echo", content=pieces, headers={"content-type": "application/json"}
        )

        assert done.status_code == 413
        assert done.json()["error"]["code"] == "body_too_large"

    def test_of_many_megabytes_is_refused_in_words_and_not_by_a_reset(self, server):
        done = httpx.post(
            f"{server.url}/echo",
            content=b"x" * 10_000_000,
            headers={"content-type": "application/json"},
        )

        assert done.status_code == 413

    def test_of_the_largest_size_is_taken(self, server):
        content = b"x" * 20_000

        done = httpx.post(
            f"{server.url}/echo", content=content, headers={"content-type": "application/json"}
        )

        assert done.content == content

    def test_without_an_end_costs_no_memory(self, server):
        before = server.resident()
        endless = request("/", b"", method="GET").replace(b"Length: 0", b"Length: 1000000000")
        with server.line(endless) as raw:
            sent = pour(raw, 500 << 20)

        assert sent < 100 << 20
        assert server.resident() - before < 30 << 20


class TestReading:
    def test_who_never_reads_what_was_asked_for_is_cut_off(self, server):
        with server.line(request("/flood"), receive_bytes=4096):
            line = server.logged("/flood")

        assert line["ended"] == "broken off"
        assert line["bytes"] < 16 << 20

    def test_who_hangs_up_in_the_middle_is_noticed_at_once(self, server):
        with server.line(request("/count", b'{"to": 1000, "every": 0.01}')) as raw:
            assert status(raw.recv(4096)) == 200
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset

        assert server.logged("/count", 3)["ended"] == "broken off"


class TestWhatIsNoRequest:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\r\n\r\n\r\nnonsense\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Length: 3\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
            bytes(range(256)) * 40,
        ],
    )
    def test_is_refused_or_closed(self, server, sent):
        with server.line(sent) as raw:
            read = whole(raw)

        assert read == b"" or status(read) in (400, 403, 405, 408, 415, 431)

    def test_a_web_socket_is_not_opened(self, server):
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
        with server.line(request("/", b"", *upgrade, method="GET")) as raw:
            assert status(raw.recv(4096)) != 101


def test_requests_on_one_connection_are_answered_in_their_order(server):
    asked = [request("/echo", b'"%d"' % number) for number in range(20)]
    with server.line(b"".join(asked)) as raw:
        read = b""
        while read.count(b"HTTP/1.1 200") < 20 or not read.rstrip().endswith(b"0"):
            read += raw.recv(65536)

    assert [read.find(b'"%d"' % number) for number in range(20)] == sorted(
        read.find(b'"%d"' % number) for number in range(20)
    )


def test_an_answer_does_not_wait_until_the_client_says_that_its_head_has_come(server):
    """A head and a body are two writes; Nagle's algorithm would keep the second for 40 ms."""
    took = []
    with httpx.Client(timeout=60) as client:
        for number in range(20):
            began = time.monotonic()
            assert client.post(f"{server.url}/echo", json=number).json() == number
            took.append(time.monotonic() - began)

    assert min(took[1:]) < 0.03


class TestCrowd:
    def test_of_idle_connections_makes_room_for_who_asks(self):
        patience = {"connections": 10, "head_seconds": 60}
        with Served.standin(patience=patience) as server, contextlib.ExitStack() as lines:
            for _ in range(50):
                lines.enter_context(server.line(b"GET / HT"))
            for number in range(20):
                assert server.post("/echo", number).json() == number

    def test_of_more_than_the_system_has_files_for_makes_room_too(self):
        with Served.standin(files=100, patience={"head_seconds": 60}) as server:
            with contextlib.ExitStack() as lines:
                for _ in range(200):
                    lines.enter_context(server.line(b"GET / HT"))
                for number in range(20):
                    assert server.post("/echo", number).json() == number
            assert not any("out of system resource" in line for line in server.log)

    def test_that_came_before_the_server_looked_is_served_too(self):
        with Served.standin(files=100, patience={"head_seconds": 60}) as server:
            server.process.send_signal(signal.SIGSTOP)
            with contextlib.ExitStack() as lines:
                for _ in range(200):
                    lines.enter_context(server.line(b"GET / HT"))
                server.process.send_signal(signal.SIGCONT)
                for number in range(20):
                    assert server.post("/echo", number).json() == number
            assert not any("out of system resource" in line for line in server.log)

    def test_of_busy_connections_is_told_to_come_again(self):
        with Served.standin(patience={"connections": 3}) as server:
            with contextlib.ExitStack() as lines:
                for _ in range(3):
                    lines.enter_context(server.line(request("/hang")))
                done = until(lambda: (seen := server.get("/")).status_code == 503 and seen)

            assert done.status_code == 503
            assert done.headers["retry-after"] == "1"
            assert until(lambda: server.get("/").status_code == 200)

    def test_of_a_hundred_at_once_is_served(self, server):
        with httpx.Client(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            answers = [None] * 100

            def ask(number):
                answers[number] = client.post(f"{server.url}/echo", json=number).json()

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert answers == list(range(100))


def pour(raw, most):
    """Send until the other side has enough, and return how many bytes it took."""
    sent = 0
    try:
        while sent < most:
            raw.sendall(bytes(65536))
            sent += 65536
    except OSError:
        pass
    return sent


def dribble(raw):
    try:
        while True:
            raw.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        pass


def test_what_goes_wrong_outside_of_a_request_is_logged_without_its_words():
    with Served.standin() as server:
        server.post("/thread", "나의 비밀")
        until(lambda: len(failures(server)) == 2)

    failed = failures(server)
    assert failed[0]["error"].endswith("ValueError")
    assert failed[1]["error"].endswith("RuntimeError")
    assert "비밀" not in "".join(server.log)


def failures(server):
    """Return the log's lines that tell of an error."""
    return [line for line in server.lines() if "error" in line]
