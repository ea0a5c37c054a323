"""The numbers for Prometheus, as its own parser reads them."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lmkit.serve.app import make_app
from lmkit.serve.guarding import guarded
from lmkit.serve.settings import Settings

from .conftest import running
from .faults.served import until

RECORD = {"prompt": "안녕하세요?"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def http(models):
    """Return a client of a server that has counted nothing yet."""
    app = make_app(models)
    app = guarded(app, Settings(api_keys=("a-key",)), metrics=app.state.surface.metrics)
    keyed = {"Authorization": "Bearer a-key"}
    with running(app) as url, httpx.Client(base_url=url, headers=keyed) as client:
        yield client


def numbers(http):
    """Return every sample by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status(http):
    http.post("/v1/tasks/noise", json=RECORD)
    http.post("/v1/tasks/judge", json=RECORD)
    http.post("/v1/tasks/noise", json={})
    http.get("/v1/tasks")

    found = numbers(http)

    route = "/v1/tasks/{name}"
    assert found["lmkit_http_requests_total", route, "200", "POST"] == 2
    assert found["lmkit_http_requests_total", route, "400", "POST"] == 1
    assert found["lmkit_http_request_seconds_count", route] == 3
    assert found["lmkit_http_requests_total", "/v1/tasks", "200", "GET"] == 1


def test_a_path_that_is_none_adds_no_series_of_its_own(http):
    for path in ("/a", "/b", "/v1/tasks/x/y/z"):
        http.get(path)
    http.request("PUT", "/c")

    found = numbers(http)

    routes = {key[1] for key in found if key[0] == "lmkit_http_requests_total"}
    assert routes <= {"404", "405", "other", "GET", "/metrics"}
    assert sum(value for key, value in found.items() if key[0] == "lmkit_http_requests_total") == 4


def test_what_is_refused_before_any_route_is_counted_too(http):
    http.post("/v1/tasks/noise", json=RECORD, headers={"Authorization": "Bearer another"})
    http.post("/v1/tasks/noise", content=b"x", headers={"Content-Type": "text/plain"})
    http.post("/v1/tasks/noise", content=b"x" * (2 << 20), headers=JSON)

    for status in ("401", "413", "415"):  # the second ends when the client has ended its own part
        key = ("lmkit_http_requests_total", status, "other", "other")
        assert until(lambda key=key: numbers(http).get(key)) == 1


def test_an_answer_is_counted_with_its_times(http, models):
    before = models["noise"].engine.stats()
    answer = http.post("/v1/tasks/noise", json=RECORD).json()

    found = numbers(http)

    assert found["lmkit_time_to_first_token_seconds_count", "noise"] == 1
    assert found["lmkit_time_per_output_token_seconds_count", "noise"] == 1
    assert found["lmkit_queue_seconds_count", "noise"] == 1
    written = found["lmkit_completion_tokens_total", "noise"] - before.completion_tokens
    assert written == answer["usage"]["completion_tokens"]


def test_the_engines_tell_what_they_hold(http, models):
    found = numbers(http)

    for name in ("rows", "waiting"):
        assert found[f"lmkit_{name}", "noise"] == 0
    assert found["lmkit_kv_bytes_most", "noise"] == models["noise"].engine.limits.kv_bytes
    assert ("lmkit_prefix_tokens_total", "noise") in found


def test_a_scraper_gets_the_form_that_it_asks_for(http):
    plain = http.get("/metrics")
    asked = http.get("/metrics", headers={"accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")
