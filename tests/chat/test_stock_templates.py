"""Templates of well-known models that TRL does not ship, in their own forms, each with a marked twin.

Those that it ships stand in `tests/reference/test_templates_reference.py`.
"""

import itertools

import pytest

from lmkit.chat import Chat
from lmkit.errors import TemplateError
from lmkit.tokenizing import Dialect

ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
)
# The first Mistral: no system message, spaces around the words.
MISTRAL_1 = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ ANSWER }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Mistral 0.3: the system message goes into the last question, while that is the last message.
MISTRAL_3 = (
    WITHOUT_SYSTEM + "{{ bos_token }}{% for m in rest %}" + ALTERNATE + "{% if m.role == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}"
    "{{ ANSWER }}{% endif %}{% endfor %}"
)
# Later ones: the system message goes into the first question, or has a place of its own.
MISTRAL_NEMO = (
    WITHOUT_SYSTEM + "{{ bos_token }}{% for m in rest %}" + ALTERNATE + "{% if m.role == 'user' %}"
    "{{ '[INST]' + (system + '\n\n' if loop.first and system is defined else '') + m.content + '[/INST]' }}"
    "{% else %}{{ ANSWER }}{% endif %}{% endfor %}"
)
MISTRAL_SMALL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{% elif m.role == 'user' %}"
    "{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ ANSWER }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    WITHOUT_SYSTEM + "{% for m in rest %}" + ALTERNATE + "{% if m.role == 'user' %}"
    "{% set said = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content if loop.first and system is "
    "defined else m.content %}{{ bos_token + '[INST] ' + said | trim + ' [/INST]' }}"
    "{% else %}{{ ANSWER }}{% endif %}{% endfor %}"
)
# SmolLM2 and Qwen 2 bring a system message of their own; TRL refuses SmolLM2's for want of marks.
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ ANSWER }}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
    "{{ ANSWER }}{{ '\n' }}{% else %}{{ m.content + eos_token + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' + '\n' }}{% endif %}{% endfor %}"
)
# Vicuna: no control tokens but the ends.
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT:' }}"
    "{{ ANSWER }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ANSWERS = {
    "Mistral 0.1": (MISTRAL_1, "m.content + eos_token"),
    "Mistral 0.3": (MISTRAL_3, "' ' + m.content | trim + eos_token"),
    "Mistral Nemo": (MISTRAL_NEMO, "m.content + eos_token"),
    "Mistral Small": (MISTRAL_SMALL, "m.content + eos_token"),
    "Llama 2": (LLAMA_2, "' ' + m.content | trim + ' ' + eos_token"),
    "SmolLM2": (SMOLLM2, "m.content + '<|im_end|>'"),
    "Zephyr": (ZEPHYR, "m.content + eos_token"),
    "Vicuna": (VICUNA, "' ' + m.content + eos_token"),
}
STOCK = {name: source.replace("ANSWER", answer) for name, (source, answer) in ANSWERS.items()}
TWINS = {
    name: source.replace(
        "{{ ANSWER }}", f"{{% generation %}}{{{{ {answer} }}}}{{% endgeneration %}}"
    )
    for name, (source, answer) in ANSWERS.items()
}
DIALECT = Dialect(
    bos_token="<s>",
    eos_token="</s>",
    control_tokens=(
        *("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        *("<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
)
ONE = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
MORE = [
    *ONE,
    {"role": "user", "content": " 뭐 해?\n"},
    {"role": "assistant", "content": "그냥 있어요."},
]
EMPTY = [*ONE, {"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]
SYSTEM = {"role": "system", "content": "Be kind."}


def text(segments):
    return "".join(segment.text for segment in segments)


def learned(segments):
    runs = itertools.groupby((s for s in segments if s.text), key=lambda s: s.learn)
    return [text(run) for learn, run in runs if learn]


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("messages", [ONE, MORE, EMPTY], ids=["one", "more", "empty"])
@pytest.mark.parametrize("learn", ["assistant", "last"])
class TestAStockTemplate:
    def test_learns_what_its_marked_twin_does(self, name, messages, learn):
        ours = Chat(template=STOCK[name], learn=learn).unrolled({"messages": messages}, DIALECT)
        twins = Chat(template=TWINS[name], learn=learn).unrolled({"messages": messages}, DIALECT)

        assert [learned(segments) for segments in ours] == [learned(segments) for segments in twins]
        assert list(map(text, ours)) == list(map(text, twins))

    def test_learns_each_end_of_turn_once(self, name, messages, learn):
        chat = Chat(template=STOCK[name], learn=learn)
        texts = chat.unrolled({"messages": messages}, DIALECT)
        [end] = chat.stop_tokens(DIALECT)
        said = "".join(run for segments in texts for run in learned(segments))

        assert said.count(end) == (1 if learn == "last" else len(messages) // 2)

    def test_begins_each_text_with_the_prompt_of_its_last_answer(self, name, messages, learn):
        chat = Chat(template=STOCK[name], learn=learn)
        for segments in chat.unrolled({"messages": messages}, DIALECT):
            asked = text(chat.prompt({"messages": messages}, DIALECT))

            assert text(segments).startswith(asked)


@pytest.mark.parametrize("name", ["Mistral Nemo", "Mistral Small", "Llama 2", "SmolLM2", "Vicuna"])
def test_a_system_message_stands_in_the_text(name):
    record = {"messages": [SYSTEM, *MORE]}
    [segments] = Chat(template=STOCK[name]).unrolled(record, DIALECT)

    assert text(segments).count("Be kind.") == 1
    assert len(learned(segments)) == 2


class TestASystemMessageInTheLastQuestion:
    """Mistral 0.3's own text of an answer has no system message: it stands in a question to be answered."""

    def test_is_trained_as_it_is_asked(self):
        texts = Chat(template=STOCK["Mistral 0.3"]).unrolled({"messages": [SYSTEM, *MORE]}, DIALECT)

        assert list(map(text, texts)) == [
            "<s>[INST] Be kind.\n\nhi[/INST] yo</s>",
            "<s>[INST] hi[/INST] yo</s>[INST] Be kind.\n\n 뭐 해?\n[/INST] 그냥 있어요.</s>",
        ]
        assert list(map(learned, texts)) == [[" yo</s>"], [" 그냥 있어요.</s>"]]

    def test_drops_nothing(self):
        assert (
            Chat(template=STOCK["Mistral 0.3"]).dropped({"messages": [SYSTEM, *MORE]}, DIALECT)
            == []
        )


class TestATemplateThatKnowsNoSystemMessage:
    def test_is_told_what_to_do(self):
        with pytest.raises(TemplateError, match=r"alternate; .*Chat\(system_as='user'\)"):
            Chat(template=STOCK["Mistral 0.1"]).unrolled({"messages": [SYSTEM, *ONE]}, DIALECT)

    def test_has_it_in_front_of_the_users_first_words(self):
        chat = Chat(template=STOCK["Mistral 0.1"], system_as="user")
        [segments] = chat.unrolled({"messages": [SYSTEM, *ONE]}, DIALECT)

        assert text(segments).startswith("<s>[INST] Be kind.\n\nhi [/INST]")
        assert text(segments).startswith(text(chat.prompt({"messages": [SYSTEM, *ONE]}, DIALECT)))
        assert learned(segments) == ["yo</s>"]

    def test_has_the_tasks_own_there_too(self):
        chat = Chat(template=STOCK["Mistral 0.1"], system="Be brief.", system_as="user")

        assert "[INST] Be brief.\n\nhi [/INST]" in text(chat.prompt({"messages": ONE}, DIALECT))
