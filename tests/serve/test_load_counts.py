"""What the load run's client counts (tests/benchmarks/load_client.py), against servers that are made up."""

import asyncio
import contextlib
import json
import math
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import load_document
from load_client import Answered, Exchange, exchanges, quantile, read, summary

from .loops import run

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = {"messages": [{"role": "user", "content": "안녕"}], "max_tokens": 4, "stream": True}


def event(text=None, *, reason=None, usage=None):
    delta = {} if text is None else {"content": text}
    chunk = {"choices": [{"delta": delta, "finish_reason": reason}]}
    if usage is not None:
        chunk["usage"] = {"completion_tokens": usage}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def chunked(content):
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def exchange(*arrived, **more):
    return Exchange(max_tokens=4, begun=0.0, arrived=list(arrived), **more)


def test_a_piece_of_text_has_the_time_at_which_its_event_was_whole():
    first, second = chunked(event("a")), chunked(event("b"))
    last = chunked(event(reason="stop", usage=3) + b"data: [DONE]\n\n") + b"0\r\n\r\n"

    answer = read(exchange((1.0, CHUNKED + first[:9]), (2.0, first[9:] + second), (3.0, last)))

    assert answer == Answered(begun=0.0, outcome="ended", pieces=((2.0, "a"), (2.0, "b")), tokens=3)
    assert answer.first_s == 2.0


@pytest.mark.parametrize("cut", range(1, 5))
def test_an_end_of_line_may_come_in_two_parts(cut):
    first, rest = (part.replace(b"\n", b"\r\n") for part in (event("a"), event("b")))
    end = event(reason="stop", usage=2) + b"data: [DONE]\n\n"
    arrived = (1.0, HEAD + b"\r\n" + first[:-cut]), (2.0, first[-cut:] + rest), (3.0, end)

    assert read(exchange(*arrived)).pieces == ((2.0, "a"), (2.0, "b"))


@pytest.mark.parametrize(("reason", "tokens"), [("length", 4), ("stop", 1)])
def test_without_usage_the_tokens_are_those_allowed_or_the_pieces(reason, tokens):
    stream = HEAD + b"\r\n" + event("a") + event(reason=reason) + b"data: [DONE]\n\n"

    assert read(exchange((1.0, stream))).tokens == tokens


@pytest.mark.parametrize(
    ("arrived", "more", "outcome"),
    [
        ((), {"failure": "ConnectionResetError"}, "ConnectionResetError"),
        ((), {"cut": True}, "cut"),
        ((), {}, "no answer"),
        (((1.0, b"HTTP/1.1 429 Too Many Requests\r\n\r\n{}"),), {}, "status 429"),
        (((1.0, HEAD + b"\r\n" + event("a")),), {"cut": True}, "cut"),
        (((1.0, HEAD + b"\r\n" + event("a")),), {}, "ended too soon"),
        (((1.0, HEAD + b'\r\ndata: {"error": {}}\n\n'),), {}, "error in the stream"),
    ],
)
def test_what_is_no_whole_answer_is_told_apart(arrived, more, outcome):
    assert read(exchange(*arrived, **more)).outcome == outcome


def test_tokens_count_where_their_pieces_came_and_errors_count_as_such():
    answers = [
        Answered(begun=0.0, outcome="ended", pieces=((1.0, "a"), (2.0, "b"), (3.0, "c")), tokens=6),
        Answered(begun=0.5, outcome="cut", pieces=((2.5, "가나"),)),
        Answered(begun=1.5, outcome="cut"),
        Answered(begun=1.5, outcome="status 429"),
    ]

    found = summary(answers, count=len, begin=1.5, end=3.5)

    assert found["tokens"] == 2 + 2 + 2  # two pieces of the first, of which each stands for two
    assert found["tokens_per_s"] == 3.0
    assert found["first_s"] == {"p50": (2.0, True), "p99": (2.0, False)}
    assert found["gap_s"]["p99"] == (1.0, True)
    assert (found["requests"], found["ended"]) == (4, 1)
    assert found["errors"] == {"status 429": 1}


def test_a_quantile_minds_who_still_waited():
    assert quantile([3.0, 1.0, 2.0], [], 0.99) == (3.0, True)
    assert quantile([1.0], [0.5], 0.5) == (1.0, True)  # who came last says nothing about a second
    assert quantile([1.0], [8.0, 9.0, 9.5], 0.5) == (9.5, False)
    assert math.isnan(quantile([], [], 0.5)[0])


def test_every_client_asks_again_when_it_has_its_answer_and_all_leave_in_time():
    """Over loopback: a server that answers two pieces, 20 ms apart, and counts who asks at a time."""
    asking, most, asked = 0, 0, []

    async def serve(reader, writer):
        nonlocal asking, most
        asking, most = asking + 1, max(most, asking + 1)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            asked.append(json.loads(await reader.readexactly(length)))
            writer.write(CHUNKED + chunked(event("a")))
            await asyncio.sleep(0.02)
            last = event("b", reason="length") + b"data: [DONE]\n\n"
            writer.write(chunked(last) + b"0\r\n\r\n")
        finally:
            asking -= 1
            writer.close()

    async def load():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server:
            begun = time.perf_counter()
            done = await exchanges(f"http://{host}:{port}", [BODY], clients=3, seconds=0.3)
            return done, begun, time.perf_counter()

    done, begun, end = run(load())
    found = summary([read(one) for one in done], count=len, begin=begun, end=end)

    assert most == 3
    assert len(asked) == len(done) > 3
    assert asked[0] == BODY
    assert not found["errors"]
    assert found["tokens"] >= found["ended"] * 4
    assert end - begun < 2.0


def test_a_client_that_leaves_hangs_up_as_soon_as_something_has_come():
    async def serve(reader, writer):
        writer.write(CHUNKED + chunked(event("a")))
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)  # until it hangs up
        writer.close()

    async def load():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        url = f"http://{host}:{port}"
        async with server:
            return await exchanges(url, [BODY], clients=1, seconds=5.0, most=3, leaves=1)

    done = run(load())

    assert [read(one).outcome for one in done] == ["cut", "cut", "cut"]


def test_a_server_that_is_not_there_is_an_error_not_a_crash():
    done = run(exchanges("http://127.0.0.1:9", [BODY], clients=1, seconds=0.1))

    assert [read(one).outcome for one in done] == ["ConnectionRefusedError"]


def measured(server, clients, tokens_per_s, first=(0.2, True)):
    return {
        "server": server,
        "clients": clients,
        "tokens_per_s": tokens_per_s,
        "first_s": {"p50": (0.1, True), "p99": first},
        "gap_s": {"p50": (0.01, True), "p99": (0.02, True)},
        "ended": 3,
        "requests": 4,
        "tokens_each": 100.0,
        "errors": {},
        "rss_bytes": 500_000_000,
        "client_cpu": 0.01,
    }


def test_the_rates_stand_beside_the_best_of_the_others():
    groups = {
        (1, "int4"): [
            measured("int4", 1, 100.0),
            measured("int4", 1, 140.0),
            measured("int4", 1, 120.0),
        ],
        (16, "int4"): [measured("int4", 16, 240.0)],
        (1, "llama.cpp"): [measured("llama.cpp", 1, 150.0)],
        (16, "llama.cpp"): [measured("llama.cpp", 16, 60.0)],
        (16, "transformers"): [measured("transformers", 16, 80.0)],
    }

    one, sixteen = load_document.rates(groups).splitlines()[2:]

    assert one == "| 1 | 120 | 150 | - | 0.8x / - / - | no |"
    assert sixteen == "| 16 | 240 | 60 | 80 | 3.0x / - / - | yes |"
    assert load_document.scaling(groups).splitlines()[2:] == [
        "| lmkit int4 | 120/s | 240/s | 2.00x | 2.5x | no |"
    ]


def test_a_quantile_that_was_not_seen_is_told_as_such():
    cells = load_document.row(
        [measured("int4", 1, 100.0, first=(8.0, False)), measured("int4", 1, 110.0)]
    )

    assert cells[3:6] == ("105 (100-110)", "100 ms", "> 8.0 s")
