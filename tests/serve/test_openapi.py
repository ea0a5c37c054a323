"""The OpenAPI document: what it says, and that schemathesis finds nothing that is otherwise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lmkit.serve.app import make_app
from lmkit.serve.guarding import guarded
from lmkit.serve.models import Models
from lmkit.serve.settings import Settings

from .conftest import running


@pytest.fixture(scope="module")
def document(url):
    return httpx.get(f"{url}/openapi.json").json()


def resolved(document, schema):
    """Return a schema with its reference followed."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def body_of(document, path):
    operation = document["paths"][path]["post"]
    return resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])


def answer_of(document, path):
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    return resolved(document, content["application/json"]["schema"])


@pytest.mark.slow
def test_schemathesis_finds_nothing(bundles, tmp_path):
    """With a key: what is behind one must be, and the document says which that is."""
    chosen = {name: bundles[name] for name in ("noise", "chat", "judge", "mlm")}
    settings = Settings(api_keys=("a-key",))
    models = Models.open(chosen, threads=1, verify=False)
    command = [sys.executable, "-m", "schemathesis.cli", "run"]
    options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    options += ["--max-examples", "10", "--seed", "1", "--continue-on-failure"]
    options += ["--request-timeout", "60", "--header", "Authorization: Bearer a-key"]
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": here, "SCHEMATHESIS_HOOKS": "fits", "NO_COLOR": "1"}

    with running(guarded(make_app(models, settings=settings), settings)) as url:
        done = subprocess.run(
            [*command, *options, f"{url}/openapi.json"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    models.close()

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counts = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counts is not None
    assert int(counts[2]) > 1000


def test_the_body_of_a_task_is_its_prompt_columns_and_nothing_else(document):
    body = body_of(document, "/v1/tasks/judge")

    assert list(body["properties"]) == ["prompt", "question"]
    assert body["required"] == ["prompt"]
    assert body["additionalProperties"] is False


def test_a_task_that_chooses_answers_with_one_of_its_labels(document):
    answer = answer_of(document, "/v1/tasks/judge")

    assert answer["properties"]["value"]["enum"] == ["예", "아니요"]
    assert "probabilities" in answer["required"]


def test_only_a_task_that_writes_takes_options_of_generation(document):
    def queries(name):
        parameters = document["paths"][f"/v1/tasks/{name}"]["post"].get("parameters", [])
        return {parameter["name"] for parameter in parameters}

    assert {"temperature", "stop", "stream"} <= queries("toy")
    assert queries("judge") == queries("mlm") == {"stream"}


def test_the_models_that_may_be_asked_are_listed(document):
    body = body_of(document, "/v1/chat/completions")

    assert body["properties"]["model"]["enum"] == ["chat", "judge", "mlm", "noise", "pair", "toy"]


def test_a_server_with_keys_says_which_operations_want_one(models):
    settings = Settings(api_keys=("a-key",))
    surface = make_app(models, settings=settings).state.surface

    paths = surface.document()["paths"]

    assert paths["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in paths["/health"]["get"]
