"""The typed endpoints: a record's columns in, the task's own answer out."""

import json

import httpx
import pytest

RECORD = {"prompt": "안녕하세요?"}


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url) as client:
        yield client


def ask(http, name, record, **query):
    answer = http.post(f"/v1/tasks/{name}", json=record, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(http, name, record, query=""):
    answer = http.post(f"/v1/tasks/{name}{query}", json=record)
    assert answer.status_code == 400
    return answer.json()["error"]


def events(http, name, record, **query):
    query["stream"] = "true"
    with http.stream("POST", f"/v1/tasks/{name}", json=record, params=query) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_text_is_answered_as_the_bundle_answers_alone(http, models):
    found = ask(http, "noise", RECORD)

    alone = models["noise"].model(RECORD)
    assert found == {
        "task": "noise",
        "value": alone.value,
        "text": alone.text,
        "finish_reason": alone.finish_reason,
        "usage": {
            "prompt_tokens": alone.usage.prompt_tokens,
            "completion_tokens": alone.usage.completion_tokens,
            "total_tokens": alone.usage.total_tokens,
        },
    }


def test_options_are_query_parameters(http, models):
    query = {"max_new_tokens": 5, "no_repeat_ngram_size": 1, "suppress_tokens": [3, 4]}

    assert (
        ask(http, "noise", RECORD, **query)["text"] == models["noise"].model(RECORD, **query).text
    )


def test_a_stop_string_that_looks_like_a_number_is_text(http, models):
    found = ask(http, "toy", RECORD, max_new_tokens=30, stop=["5", "안"])

    assert found["text"] == "네, "


def test_a_label_comes_with_what_each_label_got(http, models):
    found = ask(http, "judge", RECORD)

    alone = models["judge"].model(RECORD)
    assert found["value"] == alone.value
    assert found["probabilities"] == pytest.approx(dict(alone.probabilities))


def test_fills_come_ranked_for_each_mask(http):
    one = ask(http, "mlm", {"text": "영화는 [MASK] 좋았다"})["value"]
    two = ask(http, "mlm", {"text": "영화는 [MASK] 좋았다 [MASK]!"})["value"]

    assert [fill["score"] for fill in one] == sorted((fill["score"] for fill in one), reverse=True)
    assert len(one) == 5
    assert [len(fills) for fills in two] == [5, 5]


def test_a_stream_ends_with_the_whole_answer_and_where_the_time_went(http):
    *pieces, last = events(http, "toy", RECORD, max_new_tokens=30)

    assert "".join(piece["text"] for piece in pieces) == "네, 안녕하세요 👋" == last["text"]
    assert not any("\ufffd" in piece["text"] for piece in pieces)
    timing = last.pop("timing")
    assert last == ask(http, "toy", RECORD, max_new_tokens=30)
    assert 0 <= timing["queued"] <= timing["first_token"] <= timing["total"]
    assert timing["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("name", "record"), [("judge", RECORD), ("mlm", {"text": "[MASK] 좋았다"})]
)
def test_what_writes_nothing_streams_its_answer_in_one_piece(http, name, record):
    piece, last = events(http, name, record)

    assert piece == {"text": last["text"]}


def test_a_column_that_a_template_can_do_without_may_be_left_out_or_null(http):
    found = [
        ask(http, "judge", RECORD | more) for more in ({}, {"question": None}, {"question": "?"})
    ]

    assert found[0] == found[1]
    assert found[0]["usage"] != found[2]["usage"]


def test_numbers_and_sentences_are_read_as_the_runtime_reads_them(http, models):
    record = {"prompt": 7, "other": ["하나.", "둘."]}

    assert ask(http, "pair", record)["text"] == models["pair"].model(record).text


WRONG = {
    "missing": ("noise", {}, "'prompt' is missing", "prompt"),
    "misspelt": ("noise", {"prompt": "a", "promt": "b"}, "did you mean 'prompt'?", "promt"),
    "null": ("noise", {"prompt": None}, "'prompt' should be a valid string", "prompt"),
    "an option": (
        "noise",
        {"prompt": "a", "temperature": 1},
        "no field 'temperature'",
        "temperature",
    ),
    "no object": ("noise", ["a"], "the body should be an object", None),
    "deep down": (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 4}]}]},
        "'messages[0].content[0].text' should be a valid string",
        "messages[0].content[0].text",
    ),
    "a role": (
        "chat",
        {"messages": [{"role": "use", "content": ""}]},
        "'system'",
        "messages[0].role",
    ),
    "no mask": ("mlm", {"text": "좋았다"}, "there is nothing to fill", None),
}


@pytest.mark.parametrize(("name", "record", "words", "param"), WRONG.values(), ids=WRONG)
def test_a_record_that_does_not_fit_is_told_where(http, name, record, words, param):
    error = refused(http, name, record)

    assert words in error["message"]
    assert error["param"] == param


QUERIES = {
    "misspelt": ("?temprature=1", "did you mean 'temperature'?"),
    "no number": ("?temperature=hot", "'temperature' should be a valid number"),
    "no whole number": ("?top_k=1.5", "'top_k' should be a valid integer"),
    "empty": ("?top_k=", "'top_k' should be a valid integer"),
    "twice": ("?top_k=1&top_k=2", "'top_k' should be a valid integer"),
    "out of range": ("?top_p=0", "'top_p' should be greater than 0"),
    "no truth": ("?stream=yes", "'stream' should be a valid boolean"),
    "huge": (f"?seed={10**25}", "'seed' should be less than"),
}


@pytest.mark.parametrize(("query", "words"), QUERIES.values(), ids=QUERIES)
def test_a_query_that_does_not_fit_is_told(http, query, words):
    assert words in refused(http, "noise", RECORD, query)["message"]


BODIES = {
    "cut off": b'{"prompt": "a"',
    "not a number": b'{"prompt": NaN}',
    "half a character": b'{"prompt": "\\ud800"}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "too deep": b'{"prompt": ' + b"[" * 100_000,
    "a long number": b'{"prompt": ' + b"9" * 5000 + b"}",
    "empty": b"",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_no_json_is_refused(http, body):
    answer = http.post("/v1/tasks/noise", content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_task_that_is_not_there_is_told_with_those_that_are(http):
    answer = http.post("/v1/tasks/nois", json=RECORD)

    assert answer.status_code == 404
    assert "close to: noise" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("noise", RECORD),
        ("judge", RECORD),
        ("mlm", {"text": "영화는 [MASK] 좋았다"}),
        ("chat", {"messages": [{"role": "user", "content": "안녕"}]}),
    ],
)
def test_a_prompt_is_shown_as_the_model_is_given_it(http, models, name, record):
    shown = http.post(f"/v1/tasks/{name}/prompt", json=record).json()

    model = models[name].model
    assert [token["id"] for token in shown["tokens"]] == model.prompt(record).tolist()
    assert "".join(token["text"] for token in shown["tokens"]) == shown["text"]


def test_what_a_record_says_is_not_trusted_and_what_the_task_says_is(http):
    record = {"prompt": "<|endoftext|>안"}

    tokens = http.post("/v1/tasks/noise/prompt", json=record).json()["tokens"]

    said = "".join(token["text"] for token in tokens if not token["trusted"])
    written = "".join(token["text"] for token in tokens if token["trusted"])
    assert said == record["prompt"]
    assert written == "Q: \nA:"
    assert not any(token["control"] for token in tokens)


def test_control_tokens_are_told_apart(http):
    tokens = http.post("/v1/tasks/mlm/prompt", json={"text": "영화는 [MASK]"}).json()["tokens"]

    control = [token["text"].strip() for token in tokens if token["control"]]
    assert control == ["[CLS]", "[MASK]", "[SEP]"]


def test_every_task_is_told_with_what_it_is_asked_with(http):
    cards = {card["name"]: card for card in http.get("/v1/tasks").json()["tasks"]}

    assert {name: card["kind"] for name, card in cards.items()} == {
        "toy": "text",
        "noise": "text",
        "chat": "text",
        "pair": "text",
        "judge": "label",
        "mlm": "fill",
    }
    columns = {column["name"]: column for column in cards["judge"]["columns"]}
    assert columns["prompt"] == {
        "name": "prompt",
        "type": "text",
        "required": True,
        "sample": "안녕하세요?",
    }
    assert not columns["question"]["required"]
    assert [column["type"] for column in cards["chat"]["columns"]] == ["messages", "tools"]
    assert cards["judge"]["labels"] == ["예", "아니요"]
    assert cards["judge"]["generation"] is None
    assert cards["mlm"]["mask_token"] == "[MASK]"
    assert cards["noise"]["generation"]["max_new_tokens"] == 12


def test_the_sample_of_each_task_is_answered(http):
    for card in http.get("/v1/tasks").json()["tasks"]:
        sample = {column["name"]: column["sample"] for column in card["columns"]}

        assert ask(http, card["name"], sample)["finish_reason"] in ("stop", "length")
