"""Requests while they are written: who hangs up, who is slow, who comes too late, and what fails."""

import asyncio
import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from lmkit.batching import Engine, Limits, Turn
from lmkit.serve.app import make_app
from lmkit.serve.asking import updates
from lmkit.serve.models import Models, Served
from lmkit.serve.news import News
from lmkit.serve.settings import Settings

from .conftest import running
from .loops import run

LONG = {"max_new_tokens": 40, "min_new_tokens": 40}
STEP_S = 0.02
LONG_S = 0.2  # so long that nothing is whole before a test has looked, on a machine that is busy


class SlowTurn(Turn):
    """A turn that takes its time, so that a toy writes as slowly as a model."""

    def __init__(self, seconds=STEP_S):
        super().__init__()
        self.seconds = seconds

    def __enter__(self):
        time.sleep(self.seconds)
        super().__enter__()


@contextlib.contextmanager
def serving(models, *, settings=None, turn=None, **limits):
    """Serve the toy of noise with limits of its own; yields its address and its engine."""
    with opened(models, settings=settings, turn=turn, **limits) as (url, served):
        yield url, served["noise"].engine


@contextlib.contextmanager
def opened(models, *, settings=None, turn=None, **limits):
    """Serve it; yields its address and what is served."""
    news = News()
    model = models["noise"].model
    with Engine(model, limits=Limits(**limits), turn=turn, on_news=news) as engine:
        served = Models([Served(name="noise", engine=engine)], news)
        with running(make_app(served, settings=settings)) as url:
            yield url, served


def eventually(holds, seconds=10.0):
    """Return whether something comes to hold within some seconds."""
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.005)
    return holds()


def sent(url, path, body):
    """Send a request over a plain socket and return the socket."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_all_its_rows_at_once(models, stream):
    with serving(models, turn=SlowTurn(LONG_S)) as (url, engine):
        body = {"model": "noise", "prompt": "hi", "n": 4, "stream": stream, **LONG}
        connection = sent(url, "/v1/completions", body)
        assert eventually(lambda: engine.stats().rows == 4)

        connection.close()

        assert eventually(lambda: engine.stats().rows == 0)
        assert engine.stats().cancelled == 4
        assert engine.stats().completion_tokens < 4 * 40


def test_who_hangs_up_while_waiting_gives_up_its_place(models):
    with serving(models, turn=SlowTurn(LONG_S), max_rows=1) as (url, engine):
        body = {"model": "noise", "prompt": "hi", **LONG}
        first, second = (sent(url, "/v1/completions", body) for _ in range(2))
        assert eventually(lambda: engine.stats().waiting == 1)

        second.close()

        assert eventually(lambda: engine.stats().waiting == 0)
        assert engine.stats().rows == 1
        first.close()


def test_what_a_slow_reader_has_not_read_comes_in_one_piece(models):
    news = News()
    model = models["noise"].model

    async def read():
        request = engine.prepare({"prompt": "하나"}, options=LONG)
        bell = news.listen([engine.submit(request)], streams=True)
        pieces = []
        async for _, update in updates(bell, lambda ticket: None):
            pieces.append(update)
            await asyncio.sleep(10 * STEP_S)
        return pieces

    with Engine(model, turn=SlowTurn(), on_news=news) as engine:
        pieces = run(read())

    assert sum(len(update.token_ids) for update in pieces) == 40
    assert len(pieces) < 20
    assert "".join(update.text for update in pieces) == model({"prompt": "하나"}, **LONG).text


def test_who_waits_for_a_whole_answer_is_woken_once(models):
    news, rung = News(), []
    model = models["noise"].model

    async def wait():
        request = engine.prepare({"prompt": "하나"}, options=LONG)
        bell = news.listen([engine.submit(request)], streams=False)
        ring, bell.ring = bell.ring, lambda: (rung.append(1), ring())
        async for _ in updates(bell, lambda ticket: None):
            pass

    with Engine(model, turn=SlowTurn(), on_news=news) as engine:
        run(wait())

    assert len(rung) == 1


def test_a_request_too_many_is_told_when_to_come_again(models):
    limits = {"max_rows": 1, "max_waiting": 0}
    with serving(models, turn=SlowTurn(LONG_S), **limits) as (url, engine):
        body = {"model": "noise", "prompt": "hi", **LONG}
        running_one = sent(url, "/v1/completions", body)
        assert eventually(lambda: engine.stats().rows == 1)

        answer = httpx.post(f"{url}/v1/completions", json=body)

        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        running_one.close()


def test_of_choices_that_do_not_all_fit_none_is_begun(models):
    with serving(models, turn=SlowTurn(LONG_S), max_rows=2, max_waiting=1) as (url, engine):
        body = {"model": "noise", "prompt": "hi", "n": 5, **LONG}

        answer = httpx.post(f"{url}/v1/completions", json=body)

        assert answer.status_code == 429
        assert eventually(lambda: engine.stats().rows == engine.stats().waiting == 0)
        assert engine.stats().finished == 0


def test_an_answer_out_of_time_is_told_and_not_asked_for_again_by_itself(models):
    settings = Settings(timeout=5 * STEP_S)
    with (
        serving(models, settings=settings, turn=SlowTurn()) as (url, engine),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=3) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="noise", prompt="hi", extra_body=LONG)

        assert caught.value.status_code == 504
        assert caught.value.code == "deadline_exceeded"
        assert engine.stats().failed == 1


def test_what_is_broken_off_when_the_server_stops_says_so(models):
    with (
        opened(models, turn=SlowTurn(LONG_S)) as (url, served),
        ThreadPoolExecutor(2) as asking,
    ):
        body = {"model": "noise", "prompt": "hi", **LONG}
        whole, stream = (
            asking.submit(httpx.post, f"{url}/v1/completions", json=body | more, timeout=60)
            for more in ({}, {"stream": True})
        )
        assert eventually(lambda: served["noise"].engine.stats().rows == 2)

        served.close()

    assert whole.result().status_code == 503
    assert whole.result().json()["error"]["code"] == "stopping"
    assert '"code":"stopping"' in stream.result().text


def test_what_fails_within_a_stream_is_told_in_an_event(models):
    nothing_left = {"suppress_tokens": list(range(264))}
    with serving(models) as (url, _):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(
                model="noise", prompt="hi", stream=True, extra_body=nothing_left
            )
            with pytest.raises(openai.APIError, match="leaves no token to choose"):
                list(stream)

        # and the next one is answered
        body = {"model": "noise", "prompt": "hi", "max_tokens": 2}
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200


def test_a_bug_is_told_in_general_words_and_the_log_says_more(models, monkeypatch, caplog):
    def break_down(*args, **named):
        raise RuntimeError("what somebody asked")

    with serving(models) as (url, engine):
        monkeypatch.setattr(engine, "prepare", break_down)
        answer = httpx.post(f"{url}/v1/completions", json={"model": "noise", "prompt": "hi"})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "somebody" not in answer.text
    assert "RuntimeError" in caplog.text
