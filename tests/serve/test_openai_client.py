"""OpenAI's own client, over a real socket: what it asks is answered in the form that it reads."""

import asyncio
import math

import numpy as np
import openai
import pytest

from .loops import run

PROMPT = "안녕하세요?"
ASKED = [{"role": "user", "content": PROMPT}]
SAID = "네, 안녕하세요 👋"  # what the bundle `toy` answers to that
MODEL = {"model": "noise"}


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone(models):
    """Return the bundle `noise` as Python calls it."""
    return models["noise"].model


def text_of(completion, index=0):
    return completion.choices[index].message.content


def test_a_chat_is_answered_as_the_bundle_answers_alone(client, alone):
    found = client.chat.completions.create(**MODEL, messages=ASKED)

    expected = alone({"prompt": PROMPT})
    assert text_of(found) == expected.text
    assert found.choices[0].finish_reason == expected.finish_reason
    assert found.usage.prompt_tokens == expected.usage.prompt_tokens
    assert found.usage.completion_tokens == expected.usage.completion_tokens
    assert found.usage.total_tokens == expected.usage.total_tokens


def test_what_was_answered_can_be_sent_back(client):
    first = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "a"}]
    )
    said = first.choices[0].message
    messages = [{"role": "user", "content": "a"}, said, {"role": "user", "content": "b"}]

    assert client.chat.completions.create(model="chat", messages=messages, max_tokens=2)


def test_a_stream_is_the_text_and_no_piece_ends_inside_a_character(client):
    chunks = list(
        client.chat.completions.create(model="toy", messages=ASKED, stream=True, max_tokens=30)
    )

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == SAID
    assert not any("\ufffd" in piece for piece in pieces)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_last_in_a_stream_that_asks_for_it(client, alone):
    chunks = list(
        client.chat.completions.create(
            **MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )

    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == alone({"prompt": PROMPT}).usage.total_tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_ends_at_the_tokens_that_it_may_have(client, name):
    found = client.chat.completions.create(**MODEL, messages=ASKED, **{name: 3})

    assert found.usage.completion_tokens == 3
    assert found.choices[0].finish_reason == "length"


def test_an_answer_ends_before_a_stop_string(client):
    found = client.chat.completions.create(
        model="toy", messages=ASKED, max_tokens=30, stop=["하세", "👋"]
    )

    assert text_of(found) == "네, 안녕"
    assert found.choices[0].finish_reason == "stop"


def test_a_seed_makes_draws_repeatable_and_each_choice_another(client):
    def draw(seed):
        found = client.chat.completions.create(
            **MODEL, messages=ASKED, temperature=2, seed=seed, n=3, max_tokens=8
        )
        return [choice.message.content for choice in found.choices]

    assert draw(7) == draw(7)
    assert draw(7) != draw(-7)
    assert len(set(draw(7))) > 1


def test_greedy_is_what_a_task_has_where_no_temperature_is_asked_for(client):
    texts = {text_of(client.chat.completions.create(**MODEL, messages=ASKED)) for _ in range(3)}

    assert len(texts) == 1


def test_choices_of_one_prompt_cost_it_once(client, alone):
    found = client.chat.completions.create(**MODEL, messages=ASKED, n=3)

    one = alone({"prompt": PROMPT}).usage
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert found.usage.prompt_tokens == one.prompt_tokens
    assert found.usage.completion_tokens == 3 * one.completion_tokens


def test_choices_of_a_stream_come_side_by_side_each_under_its_index(client, alone):
    texts = {0: "", 1: ""}
    stream = client.chat.completions.create(**MODEL, messages=ASKED, n=2, stream=True)
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert texts == dict.fromkeys((0, 1), alone({"prompt": PROMPT}).text)


def test_log_probabilities_are_those_of_the_model(client, alone):
    found = client.chat.completions.create(
        **MODEL, messages=ASKED, logprobs=True, top_logprobs=2, max_tokens=3
    )

    prompt = alone.prompt({"prompt": PROMPT})
    answer = np.array(alone({"prompt": PROMPT}, max_new_tokens=3).token_ids)
    logits = alone.forced(prompt, answer)[:3].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    told = found.choices[0].logprobs.content
    for place, token in enumerate(answer):
        assert math.isclose(told[place].logprob, expected[place, token], abs_tol=1e-4)
        best = np.sort(expected[place])[::-1][:2]
        shown = [top.logprob for top in told[place].top_logprobs]
        assert np.allclose(shown, best, atol=1e-4)
    written = b"".join(bytes(token.bytes) for token in told)
    assert written.decode("utf-8", errors="replace") == text_of(found)


def test_log_probabilities_come_with_a_stream_too(client):
    asked = dict(**MODEL, messages=ASKED, logprobs=True, top_logprobs=1, max_tokens=4)
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content

    chunks = client.chat.completions.create(**asked, stream=True)

    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for part in told if part for token in part.content] == whole


def test_a_bias_forbids_or_forces_a_token(client, alone):
    free = alone({"prompt": PROMPT}, max_new_tokens=1).token_ids[0]

    found = client.chat.completions.create(
        **MODEL, messages=ASKED, max_tokens=1, logit_bias={str(free): -100}, logprobs=True
    )

    assert found.choices[0].logprobs.content[0].bytes != list(
        alone.tokenizer.decode([free]).encode()
    )


def test_fields_of_generation_go_in_the_extra_body(client, alone):
    found = client.chat.completions.create(
        **MODEL, messages=ASKED, extra_body={"no_repeat_ngram_size": 1, "min_new_tokens": 5}
    )

    expected = alone({"prompt": PROMPT}, no_repeat_ngram_size=1, min_new_tokens=5)
    assert text_of(found) == expected.text


def test_a_task_that_chooses_answers_with_its_label(client):
    found = client.chat.completions.create(model="judge", messages=ASKED)

    assert text_of(found) in ("예", "아니요")


def test_a_masked_task_answers_with_the_filled_text(client):
    messages = [{"role": "user", "content": "영화는 [MASK] 좋았다"}]

    found = client.chat.completions.create(model="mlm", messages=messages)

    assert "[MASK]" not in text_of(found)
    assert text_of(found).endswith("좋았다")


def test_prompts_of_a_completion_are_answered_in_order(client, alone):
    found = client.completions.create(**MODEL, prompt=["하나", "둘"], n=2, max_tokens=4)

    expected = alone.batch([{"prompt": "하나"}, {"prompt": "둘"}], max_new_tokens=4)
    texts = [choice.text for choice in found.choices]
    assert texts == [answer.text for answer in expected for _ in range(2)]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]


def test_token_ids_are_taken_as_they_are(client, alone):
    prompt = alone.prompt({"prompt": PROMPT}).tolist()

    found = client.completions.create(**MODEL, prompt=prompt)
    both = client.completions.create(**MODEL, prompt=[prompt, prompt[:4]], max_tokens=2)

    assert found.choices[0].text == alone({"prompt": PROMPT}).text
    assert both.usage.prompt_tokens == len(prompt) + 4


def test_an_echo_puts_the_prompt_before_its_answer(client, alone):
    found = client.completions.create(**MODEL, prompt=PROMPT, echo=True, max_tokens=4)
    stream = client.completions.create(**MODEL, prompt=PROMPT, echo=True, max_tokens=4, stream=True)

    expected = PROMPT + alone({"prompt": PROMPT}, max_new_tokens=4).text
    assert found.choices[0].text == expected
    assert "".join(chunk.choices[0].text for chunk in stream) == expected


def test_the_log_probabilities_of_a_completion_stand_in_columns(client):
    found = client.completions.create(**MODEL, prompt=PROMPT, logprobs=2, max_tokens=3)

    told = found.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 3
    for token, own, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == own  # greedy: the token is the likeliest
        assert len(top) == 2


def test_models_are_listed_and_told_one_by_one(client):
    listed = [model.id for model in client.models.list()]

    assert listed == ["toy", "noise", "chat", "pair", "judge", "mlm"]
    assert client.models.retrieve("judge").id == "judge"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="close to: noise") as caught:
        client.chat.completions.create(model="nois", messages=ASKED)
    with pytest.raises(openai.NotFoundError, match="no model named 'nois'"):
        client.models.retrieve("nois")

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_overflows_the_context_is_refused_before_anything_is_written(client, stream):
    with pytest.raises(openai.BadRequestError, match="context holds 64") as caught:
        client.completions.create(**MODEL, prompt="가" * 100, stream=stream)

    assert caught.value.code == "context_length_exceeded"


def test_what_the_client_says_of_the_prompts_cache_is_left_out(client, alone):
    cached = {"prompt_cache_key": "a", "prompt_cache_retention": "24h"}
    options = {"prompt_cache_options": {"ttl": "24h"}}
    answer = client.chat.completions.create(**MODEL, messages=ASKED, extra_body=cached | options)

    assert text_of(answer) == alone({"prompt": PROMPT}).text


REFUSED = {
    "a misspelt field": ({"temprature": 1}, "did you mean 'temperature'?", "unknown_field"),
    "a wrong type": (
        {"temperature": "hot"},
        "'temperature' should be a valid number",
        "invalid_field",
    ),
    "out of range": ({"top_p": 2}, "'top_p' should be less than or equal to 1", "invalid_field"),
    "tools": (
        {"tools": [{"type": "function"}]},
        "'tools' is not supported: `POST /v1",
        "unsupported",
    ),
    "a JSON answer": (
        {"response_format": {"type": "json_object"}},
        "'response_format.type'",
        "unsupported",
    ),
    "moderation": ({"moderation": {"model": "x"}}, "'moderation' is not supported", "unsupported"),
    "two lengths": ({"max_tokens": 1, "max_completion_tokens": 2}, "set one of them", "conflict"),
    "top_logprobs alone": ({"top_logprobs": 1}, "set logprobs to true", "conflict"),
    "too many choices": ({"n": 64}, "64 answers are asked for", "too_many_choices"),
    "beams that are drawn": (
        {"num_beams": 2, "temperature": 1},
        "num_beams is 2",
        "invalid_option",
    ),
    "a token that is none": ({"forced_eos_token_id": 9999}, "below 264", "invalid_option"),
}


@pytest.mark.parametrize(("more", "words", "code"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_told(client, more, words, code):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**MODEL, messages=ASKED, extra_body=more)

    assert words in caught.value.body["message"]
    assert caught.value.code == code


def test_options_of_writing_are_refused_where_nothing_is_written(client):
    with pytest.raises(openai.BadRequestError, match="temperature would change nothing"):
        client.chat.completions.create(model="judge", messages=ASKED, temperature=1)


def test_a_users_message_without_content_is_refused_not_read_as_empty(client):
    with pytest.raises(openai.BadRequestError, match="last message has no content"):
        client.chat.completions.create(model="toy", messages=[{"role": "user"}])


def test_a_task_of_several_columns_names_its_own_endpoint(client):
    with pytest.raises(
        openai.BadRequestError, match="prompt, other; send them to POST /v1/tasks/pair"
    ):
        client.chat.completions.create(model="pair", messages=ASKED)


def test_many_at_once_are_each_answered_as_alone(url, alone):
    prompts = ["하나", "둘", "셋!", "What is 2+2?", "👩‍👩‍👧", "네"] * 4

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    async def ask(client, prompt):
        stream = await client.completions.create(**MODEL, prompt=prompt, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    expected = [answer.text for answer in alone.batch([{"prompt": text} for text in prompts])]
    assert run(ask_all()) == expected
