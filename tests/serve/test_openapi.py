"""The OpenAPI document, tried by schemathesis: what it promises holds for what fits it, and for what does not."""

import json

import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from lmkit.serve.app import make_app
from lmkit.serve.guarding import guarded
from lmkit.serve.settings import Settings

# What may be wrong with a request that fits its schema: what only the task or its model knows.
BEYOND_SCHEMAS = {
    "context_length_exceeded",  # its tokens are counted where it is encoded
    "invalid_option",  # options that do not go together
    "invalid_record",  # a conversation that a chat template refuses, a text without a mask
    "needs_columns",  # a conversation for a task of several columns
    "too_many_choices",
    "conflict",
    "unsupported",
}
CONFIG = {
    "generation": {"max-examples": 12, "deterministic": True},
    "headers": {"Content-Type": "application/json"},
}


@pytest.fixture(scope="module")
def document(models):
    """Return the document of a server with a bundle of every kind, and the server behind it."""
    app = guarded(make_app(models), Settings(hosts=None))
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=schemathesis.Config.from_dict(CONFIG))


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
def test_every_operation_keeps_to_the_document(case):
    answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])

    if case.meta.generation.mode == GenerationMode.POSITIVE and answer.status_code == 400:
        assert answer.json()["error"]["code"] in BEYOND_SCHEMAS, answer.text
