"""The log: a line for each request, for people or programs, and no text of anybody's in it."""

import io
import json
import logging
import re

import pytest

from lmkit.serve.logs import LOGGERS, set_up, told

from .asking import ask

SECRET = "나의 비밀"


@pytest.fixture(autouse=True)
def _as_before():
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def log_of(method, path, *, log_format="json", log_prompts=False, **named):
    """Ask once; return the answer and what was logged."""
    stream = io.StringIO()
    set_up(log_format, log_prompts=log_prompts, stream=stream)
    settings = {"log_prompts": log_prompts, **named.pop("settings", {})}
    answer = ask(method, path, settings=settings, **named)
    return answer, stream.getvalue()


async def fails(scope, receive, send):
    body = (await receive())["body"].decode()
    try:
        json.loads(body + "}")
    except ValueError as error:
        raise RuntimeError(f"cannot do {body}") from error


def test_a_request_is_a_line_of_facts():
    answer, log = log_of("POST", "/v1/completions?temperature=0", json={"prompt": SECRET})
    line = json.loads(log)

    assert answer.status_code == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line.pop("ms") >= 0
    assert line.pop("message").startswith("POST /v1/completions 200 ")
    assert line == {
        "level": "info",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "bytes": len(answer.content),
        "client": "127.0.0.1",
        "id": answer.headers["x-request-id"],
    }


def test_people_read_the_same():
    answer, log = log_of("POST", "/v1/completions", json={"prompt": SECRET}, log_format="text")

    assert re.fullmatch(
        r"[\d-]+T[\d:.]+Z INFO    POST /v1/completions 200 \d+ ms bytes=\d+ "
        rf'client="127.0.0.1" id="{answer.headers["x-request-id"]}"\n',
        log,
    )


def test_what_was_asked_is_not_in_it():
    _, log = log_of("POST", "/v1/completions", json={"prompt": SECRET})

    assert SECRET not in log
    assert json.dumps(SECRET) not in log


def test_what_was_asked_is_not_in_an_error_nobody_expected_either():
    content = json.dumps({"prompt": SECRET}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    answer, log = log_of("POST", "/x", app=fails, content=content, headers=headers)
    failure, line = map(json.loads, log.splitlines())

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert SECRET not in log
    assert SECRET not in answer.text
    assert failure["error"].endswith("RuntimeError")
    assert "JSONDecodeError\nwhich led to\n" in failure["error"]
    assert 'raise RuntimeError(f"cannot do {body}") from error' in failure["error"]
    assert failure["id"] == line["id"] == answer.headers["x-request-id"]
    assert line["level"] == "warning"
    assert line["status"] == 500


def test_what_was_asked_and_answered_is_there_where_that_is_wanted():
    content = json.dumps({"prompt": SECRET}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    _, log = log_of("POST", "/x", content=content, headers=headers, log_prompts=True)
    line = json.loads(log)

    assert json.loads(line["request"]) == {"prompt": SECRET}
    assert line["answer"].startswith("/x ")
    assert SECRET in line["answer"]


def test_an_error_is_told_whole_where_that_is_wanted():
    content = json.dumps({"prompt": SECRET}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    _, log = log_of("POST", "/x", app=fails, content=content, headers=headers, log_prompts=True)

    assert SECRET in json.loads(log.splitlines()[0])["error"]


def test_keys_are_not_in_it():
    settings = {"api_keys": "the-key"}
    headers = {"authorization": "Bearer another-key"}
    _, log = log_of("GET", "/v1/models", settings=settings, headers=headers)

    assert json.loads(log)["status"] == 401
    assert "the-key" not in log
    assert "another-key" not in log


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_what_machines_ask_every_few_seconds_is_worth_no_line(path):
    assert log_of("GET", path)[1] == ""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_cannot_write_lines_of_its_own(log_format):
    _, log = log_of("GET", "/%0AINFO%20forged%1b[31m" + "x" * 1000, log_format=log_format)

    assert log.count("\n") == 1
    assert "\x1b" not in log
    assert len(log) < 1000


def test_a_clients_own_id_is_kept_where_it_is_one():
    answer, log = log_of("GET", "/", headers={"x-request-id": "trace-1.2:3_4"})

    assert answer.headers["x-request-id"] == json.loads(log)["id"] == "trace-1.2:3_4"


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, 'a"b', "ü".encode()])
def test_an_id_that_is_none_is_replaced(given):
    answer, _ = log_of("GET", "/", headers={"x-request-id": given})

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_an_error_without_its_message_still_says_where_it_came_from():
    try:
        int(SECRET)
    except ValueError as error:
        trace = told(error, with_message=False)

    assert SECRET not in trace
    assert "int(SECRET)" in trace
    assert trace.endswith("ValueError")
