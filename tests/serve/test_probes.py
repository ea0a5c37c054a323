"""What a load balancer asks: whether the process lives, and whether it can answer."""

import httpx
import pytest

from lmkit.serve.app import make_app
from lmkit.serve.models import Models

from .loops import run


@pytest.fixture
def models(bundles):
    opened = Models.open([("one", bundles["toy"]), ("other", bundles["noise"])], verify=False)
    yield opened
    opened.close()


def get(models, path):
    async def ask():
        transport = httpx.ASGITransport(make_app(models))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return run(ask())


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_server_with_its_models_is_well(models, path):
    answer = get(models, path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_one_that_has_lost_a_model_lives_and_is_not_ready(models):
    models["other"].engine.close()

    answer = get(models, "/ready")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_ready"
    assert "other" in answer.json()["error"]["message"]
    assert get(models, "/health").status_code == 200
