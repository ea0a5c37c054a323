"""What a web page of a stranger can do with a server on the machine of who looks at it: nothing."""

import pytest

from .asking import ask


class TestNames:
    @pytest.mark.parametrize(
        "name", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "[::1]", "127.9.9.9"]
    )
    def test_of_this_machine_are_answered(self, name):
        assert ask("GET", "/", headers={"host": name}).status_code == 200

    @pytest.mark.parametrize(
        "name",
        [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.0.1",
            "evil.example:localhost",
            "localhost@evil.example",
            "",
        ],
    )
    def test_of_others_are_refused(self, name):
        """A page's own name may be made to point at this machine: DNS rebinding."""
        answer = ask("GET", "/v1/models", headers={"host": name})

        assert answer.status_code == 403
        assert "--api-key-file" in answer.json()["error"]["message"]

    def test_are_not_looked_at_where_a_key_protects(self):
        headers = {"host": "models.example.org", "authorization": "Bearer key"}

        answer = ask("GET", "/v1/models", headers=headers, settings={"api_keys": "key"})

        assert answer.status_code == 200


class TestOrigins:
    def test_its_own_page_may_ask(self):
        headers = {"origin": "http://127.0.0.1:8000"}

        assert ask("POST", "/v1/completions", headers=headers, json={}).status_code == 200

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://127.0.0.1:9000", "http://127.0.0.1"]
    )
    def test_another_page_may_not(self, origin):
        answer = ask("POST", "/v1/completions", headers={"origin": origin}, json={})

        assert answer.status_code == 403
        assert "--cors-origin" in answer.json()["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers

    def test_another_page_is_given_nothing_that_a_browser_would_let_it_read(self):
        answer = ask("GET", "/v1/models", headers={"origin": "https://evil.example"})

        assert "access-control-allow-origin" not in answer.headers

    def test_a_page_that_was_allowed_may_ask_and_read(self):
        settings = {"cors_origins": "https://app.example"}
        headers = {"origin": "https://app.example"}

        answer = ask("POST", "/v1/completions", headers=headers, json={}, settings=settings)

        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"

    def test_a_page_that_was_allowed_may_ask_first_without_its_key(self):
        settings = {"cors_origins": "https://app.example", "api_keys": "key"}
        headers = {
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        }

        answer = ask("OPTIONS", "/v1/completions", headers=headers, settings=settings)

        assert answer.status_code == 200
        assert "authorization" in answer.headers["access-control-allow-headers"]

    def test_a_page_that_was_allowed_can_read_what_is_wrong(self):
        settings = {"cors_origins": "https://app.example", "api_keys": "key"}

        answer = ask(
            "GET", "/v1/models", headers={"origin": "https://app.example"}, settings=settings
        )

        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"]
)
def test_what_a_page_can_send_without_asking_is_not_taken(kind):
    answer = ask("POST", "/v1/completions", headers={"content-type": kind}, content=b"{}")

    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_json_may_name_its_encoding():
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert ask("POST", "/v1/completions", headers=headers, content=b"{}").status_code == 200
