"""SIGTERM and SIGINT: what is being answered is answered, nothing else begins, and the end is a 0."""

import signal
import threading
import time

import httpx
import pytest

from .served import Served, request, until, whole


@pytest.fixture
def counting():
    """Return a function that starts a server and a request that takes a while."""
    servers = []

    def counting(*, to, every=0.05, **asked):
        server = Served.standin(**asked)
        servers.append(server)
        told = []
        asks = threading.Thread(target=read, args=(server, {"to": to, "every": every}, told))
        asks.start()
        until(lambda: told)
        return server, told, asks

    yield counting
    for server in servers:
        server.__exit__(None, None, None)


def read(server, wanted, told):
    with httpx.stream("POST", f"{server.url}/count", json=wanted, timeout=60) as answer:
        try:
            for line in answer.iter_lines():
                told.append(line)
        except httpx.RemoteProtocolError:
            told.append("cut off")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_stream_ends_as_it_would_have_and_then_the_server_with_0(counting, number):
    server, told, asks = counting(to=20)
    server.kill(number)
    asks.join(60)

    assert told == [*map(str, range(20)), "end"]
    assert server.ended() == (0, "stopped\nleft\n")


def test_meanwhile_it_is_not_ready_but_alive_and_takes_nothing_new(counting):
    server, _, asks = counting(to=20)
    assert server.get("/ready").status_code == 200
    server.kill()
    until(lambda: server.get("/ready").status_code == 503)

    refused = server.post("/echo", 1)

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.headers["connection"] == "close"
    assert refused.json()["error"]["code"] == "stopping"
    assert server.get("/health").status_code == 200
    assert asks.is_alive()
    asks.join(60)


def test_a_stream_that_takes_longer_than_the_drain_is_cut_off(counting):
    server, told, asks = counting(to=10_000, drain=0.3)
    began = time.monotonic()
    server.kill()
    asks.join(60)

    assert server.ended()[0] == 0
    assert told[-1] == "cut off"
    assert 0.3 < time.monotonic() - began < 300


def test_where_nobody_is_inside_nobody_is_said_to_be_broken_off():
    with Served.standin(drain=0) as server:
        server.kill()
        assert server.ended()[0] == 0

    assert any("stopping" in line for line in server.log)
    assert not any("broken off" in line for line in server.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(counting, number):
    server, _, asks = counting(to=10_000)
    server.kill(signal.SIGTERM)
    until(lambda: any("stopping" in line for line in server.log))
    began = time.monotonic()
    server.kill(number)

    assert server.ended() == (128 + number, "")
    assert time.monotonic() - began < 30
    asks.join(60)


def test_an_idle_server_ends_at_once_although_connections_are_open():
    with Served.standin() as server, server.line() as silent, server.line() as kept:
        kept.sendall(request("/echo", b"1"))
        kept.recv(4096)
        began = time.monotonic()
        server.kill()

        assert server.ended()[0] == 0
        assert time.monotonic() - began < 30
        assert whole(silent) == b""


def test_an_address_that_is_taken_is_told_with_what_to_do():
    from lmkit.errors import LmkitError
    from lmkit.serve.running import listen

    with (
        Served.standin() as server,
        pytest.raises(LmkitError, match=rf"{server.port}: Address already in use; another --port"),
    ):
        listen("127.0.0.1", server.port)


def test_an_address_of_another_machine_cannot_be_taken():
    from lmkit.errors import LmkitError
    from lmkit.serve.running import listen

    with pytest.raises(LmkitError, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 8000)
