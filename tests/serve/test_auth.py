"""Who may ask: whoever sends a key, where there are keys."""

import hmac

import pytest

from lmkit.serve.guarding import guarded
from lmkit.serve.settings import Settings

from .asking import ask, says_path
from .loops import run

KEYS = {"api_keys": ("first-key", "second-key")}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_each_key_opens(key):
    assert ask("GET", "/v1/models", settings=KEYS, headers=bearer(key)).status_code == 200


def test_the_scheme_may_be_written_in_any_case():
    headers = {"authorization": "bearer  first-key "}

    assert ask("GET", "/v1/models", settings=KEYS, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/health/"])
def test_without_a_key_it_is_said_how_one_is_sent(path):
    answer = ask("GET", path, settings=KEYS)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == {
        "message": "this server wants a key: send it as 'Authorization: Bearer KEY'",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize(
    "headers",
    [
        bearer("first-ke"),
        bearer("first-key2"),
        bearer("FIRST-KEY"),
        bearer(""),
        bearer("first-key,second-key"),
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"Authorization": ""},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_another_key_opens_nothing(headers):
    answer = ask("POST", "/v1/completions", settings=KEYS, headers=headers, json={})

    assert answer.status_code == 401
    assert "not a key of this server" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/playground/main.js"])
def test_what_tells_nothing_of_the_models_is_open(path):
    assert ask("GET", path, settings=KEYS).status_code == 200


def test_all_keys_are_compared_in_constant_time(monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or compare(*two))

    ask("GET", "/v1/models", settings=KEYS, headers=bearer("first-key"))

    assert len(compared) == 2
    assert {len(part) for two in compared for part in two} == {32}


def test_a_key_is_asked_for_before_the_body_is_read():
    happened = []

    async def receive():
        happened.append("read")
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        happened.append(message.get("status", "sent"))

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    run(guarded(says_path, Settings(**KEYS))(scope, receive, send))

    assert happened[:2] == [401, "sent"]
    assert "read" in happened  # so that the client is not cut off before it has the answer
