"""A check for schemathesis, which reads it as its hooks: what fits the document is not refused for its form.

Its own check wants every request that fits to be answered with 200. Some are refused for what no
schema can say: how many tokens a text has, or what a chat template makes of a conversation.
"""

import schemathesis

BEYOND_SCHEMAS = {
    "conflict",  # two fields that do not go together
    "context_length_exceeded",
    "invalid_option",  # options that do not go together, or that the task has no use for
    "invalid_record",  # a conversation that the template refuses, a text without a mask
    "needs_columns",  # a conversation for a task of several columns
    "too_many_choices",
    "unsupported",
}


@schemathesis.check
def accepts_what_fits(context, response, case):
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and response.status_code == 400:
        assert response.json()["error"]["code"] in BEYOND_SCHEMAS, response.text
