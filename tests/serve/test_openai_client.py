"""The official client, over a real socket: what it asks is answered in the form that it reads."""

import openai
import pytest

ASKED = [{"role": "user", "content": "안녕하세요?"}]


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_answered_as_the_bundle_answers_alone(client, models):
    found = client.chat.completions.create(model="noise", messages=ASKED)

    alone = models["noise"].model({"prompt": "안녕하세요?"})
    assert found.choices[0].message.content == alone.text
    assert found.choices[0].finish_reason == alone.finish_reason
    assert found.usage.prompt_tokens == alone.usage.prompt_tokens
    assert found.usage.completion_tokens == alone.usage.completion_tokens


def test_the_pieces_of_a_stream_are_the_text_and_none_ends_inside_a_character(client, models):
    chunks = list(
        client.chat.completions.create(
            model="toy",
            messages=ASKED,
            stream=True,
            max_tokens=30,
            stream_options={"include_usage": True},
        )
    )

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == "네, 안녕하세요 👋"
    assert not any("\ufffd" in piece for piece in pieces)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 22 + 26


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="close to: noise") as caught:
        client.chat.completions.create(model="nois", messages=ASKED)

    assert caught.value.code == "model_not_found"
