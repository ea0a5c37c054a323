"""What the router itself refuses: told in OpenAI's shape, by whatever name the server was called."""

import httpx
import pytest

from lmkit.serve.app import make_app

from .loops import run


@pytest.fixture
def ask(models):
    def ask(method, path, host):
        async def asking():
            transport = httpx.ASGITransport(make_app(models))
            async with httpx.AsyncClient(transport=transport, base_url="http://any") as client:
                return await client.request(method, path, headers={"host": host})

        return run(asking())

    return ask


# The second and third make another path of it, or none, where a URL is put together and read again.
@pytest.mark.parametrize("host", ["localhost:8000", "[", "other/path?"])
class TestUnderAnyName:
    def test_a_path_that_is_none_is_told(self, ask, host):
        answer = ask("GET", "/v1/nothing", host)

        assert answer.status_code == 404
        assert answer.json()["error"]["message"].startswith("there is nothing at /v1/nothing;")

    def test_another_method_is_told_with_those_that_there_are(self, ask, host):
        answer = ask("DELETE", "/v1/models", host)

        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]
        assert answer.json()["error"]["message"].endswith("not DELETE")
        assert answer.json()["error"]["message"].startswith("/v1/models takes ")
