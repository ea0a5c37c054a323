"""A conversation that is cut as an earlier one of its shape was is cut as it would be alone."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkit.chat import CHATML, Chat
from lmkit.chat.rendering import Rendering
from lmkit.chat.unrolling import Unroller
from lmkit.errors import TemplateError
from lmkit.tokenizing import Dialect

CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|bot|>")
MARKED = CHATML.replace(
    "message['content'] + '<|im_end|>' + '\\n' }}",
    "'' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}",
)
TRIMMED = CHATML.replace("message['content']", "message['content'] | trim")
FORGETFUL = CHATML.replace(
    "message['content'] +",
    "(message['content'] if loop.last else message['content'].split('</think>')[-1]) +",
)
ENDED = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
OPEN = (
    "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|bot|>' }}{{ m.content }}"
    "{% endfor %}{{ '<|bot|>' if add_generation_prompt }}"
)
ASKS_TO_THINK = FORGETFUL.replace(
    "assistant\\n' }}{% endif %}", "assistant\\n<think>' }}{% endif %}"
)
TEMPLATES = {
    "ChatML": CHATML,
    "marked": MARKED,
    "trimmed": TRIMMED,
    "forgetful": FORGETFUL,
    "ended": ENDED,
    "open": OPEN,
    "asks to think": ASKS_TO_THINK,
}
WORDS = st.one_of(
    st.sampled_from(
        ["", " ", "\n", "a", "yes ", "<think>b</think>c", "<|im_end|>", "<|user|>x", "<"]
    ),
    st.text(alphabet="ab \n<|>가", max_size=6),
)


def rendering_of(source):
    return Rendering(source, Dialect(eos_token="<|endoftext|>", control_tokens=CONTROL))


def conversation(contents):
    roles = itertools.cycle(["user", "assistant"])
    return [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]


@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=4, max_size=5), min_size=4, max_size=8))
def test_words_are_cut_as_they_would_be_alone(source, learn, contents):
    dialect = rendering_of(source).dialect
    chat = Chat(template=source, learn=learn)
    for words in contents:
        messages = conversation(words)
        try:
            alone = Unroller(rendering_of(source), messages, None).texts(learn)
        except TemplateError:
            with pytest.raises(TemplateError):
                chat.unrolled({"messages": messages}, dialect)
            continue

        assert chat.unrolled({"messages": messages}, dialect) == alone


@pytest.mark.parametrize(
    ("source", "planned"), [(CHATML, True), (MARKED, True), (TRIMMED, True), (FORGETFUL, False)]
)
def test_a_shape_is_cut_once_unless_its_words_decide(source, planned):
    source += "{# which no other test has rendered #}"
    rendering = rendering_of(source)
    chat = Chat(template=source)
    record = {"messages": conversation(["q", "<think>a</think>b", "r", "c"])}
    for _ in range(3):
        chat.unrolled(record, rendering.dialect)
    plans = chat._rendering(rendering.dialect).plans

    assert any(plan is not None for plan in plans.values()) == planned


TRIMS_EARLIER = CHATML.replace(
    "message['content'] +",
    "(message['content'] if loop.last else message['content'] | trim) +",
)
SAYS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|bot|><|say|>{{ m.content.split('</think>')[-1] }}"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)


@pytest.mark.parametrize("learn", ["assistant", "last", "all"])
@pytest.mark.parametrize(
    ("source", "earlier", "words"),
    [
        # Which text teaches the answer is for its white space to say.
        (TRIMS_EARLIER, ["q", " a ", "r"], ["q", "a", "r"]),
        (TRIMS_EARLIER, ["q", "a", "r"], ["q", " a ", "r"]),
        # Without words behind it, a control token ends the answer.
        (SAYS, ["q", "<think>x</think>a"], ["q", "<think>x</think> "]),
    ],
)
def test_what_may_depend_on_words_is_not_planned(source, learn, earlier, words):
    source += "{# for plans #}"
    dialect = Dialect(control_tokens=(*CONTROL, "<|say|>"))
    chat = Chat(template=source, learn=learn)
    for _ in range(4):
        chat.unrolled({"messages": conversation(earlier)}, dialect)
    alone = Unroller(Rendering(source, dialect), conversation(words), None).texts(learn)

    assert chat.unrolled({"messages": conversation(words)}, dialect) == alone
