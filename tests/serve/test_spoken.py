"""What of a prompt its record says is found, in a chat template's one text too."""

import pytest

import lmkit as lk
from lmkit.serve.spoken import END, START, spoken
from lmkit.tokenizing import Dialect

LLAMA = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}<|assistant|>"
)


def said(formatter, record):
    """Return a prompt with what its record says in brackets."""
    pieces = spoken(formatter, record, Dialect())
    return "".join(
        f"[{segment.text}]" if by_record else segment.text for segment, by_record in pieces
    )


def turns(*contents):
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[place % 2], "content": content} for place, content in enumerate(contents)
        ]
    }


def test_a_conversations_words_are_found_where_they_stand():
    found = said(lk.Chat(template=LLAMA), turns("user", "네", "user user"))

    assert (
        found
        == "<|user|>[user]<|end|><|assistant|>[네]<|end|><|user|>[user user]<|end|><|assistant|>"
    )


def test_blanks_that_a_template_strips_change_nothing():
    assert said(lk.Chat(template=LLAMA), turns(" 안녕\n")) == "<|user|>[안녕]<|end|><|assistant|>"


def test_a_system_message_of_the_tasks_own_is_the_tasks():
    chat = lk.Chat(template=LLAMA, system="Be kind.")

    assert (
        said(chat, turns("안녕")) == "<|system|>Be kind.<|end|><|user|>[안녕]<|end|><|assistant|>"
    )


def test_a_templates_columns_are_the_records():
    formatter = lk.context("Q: {prompt}\nA:") + lk.target(" {completion}")

    assert said(formatter, {"prompt": "1+1?"}) == "Q: [1+1?]\nA:"


@pytest.mark.parametrize(
    ("template", "content"),
    [
        ("{{ messages[0].content | length }}", "안녕"),  # a template that does more than write it
        ("{{ messages[0].content }}", f"{START}안녕{END}"),  # the marks themselves
    ],
)
def test_where_it_cannot_be_told_nothing_is_the_records(template, content):
    found = spoken(lk.Chat(template=template), turns(content), Dialect())

    assert not any(by_record for _, by_record in found)


@pytest.mark.parametrize("record", [turns("안녕", "네.", "뭐 해?"), turns("")])
def test_the_text_stays_what_it_was(record):
    chat = lk.Chat(template=LLAMA)

    whole = "".join(segment.text for segment, _ in spoken(chat, record, Dialect()))

    assert whole == "".join(segment.text for segment in chat.prompt(record, Dialect()))
