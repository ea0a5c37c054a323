"""Every chat template that TRL ships, against transformers' texts, ids and masks.

TRL stores the templates of the well-known models, and for many of them a twin in which
`{% generation %}` marks say what the assistant wrote. Transformers renders both; lmkit gets the shipped
template, which mostly has no marks.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import IGNORE
from lmkit.errors import TemplateError
from lmkit.tokenizing import Tokenizer

transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl")

FOLDER = Path(trl.__file__).parent / "chat_templates"
SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
TWINS = {name.removesuffix("_training"): name for name in SOURCES if name.endswith("_training")}

# Contents must be lists of parts: what is text, these leave out or fail on. lmkit gives them parts.
CONVERSATION_TITLES = (
    *("single", "multi", "system", "korean", "spaces", "empty", "twice", "tools", "reason"),
    *("think", "trailing"),
)
READ_PARTS = {"idefics3", "llava_next", "smolvlm"}
HISTORY = {"multi", "system", "korean", "spaces", "empty", "tools", "trailing"}
# Their twins keep in earlier answers what the shipped templates take away, reasoning or the empty place
# for it, so that a reinforcement-learning loop can append to a text. In these conversations, the twin's
# text is another than the shipped template's.
OTHER_TEXTS = {
    "glm4moe": {*CONVERSATION_TITLES}
    - {"trailing"},  # it ends a last turn that the other lets open
    "qwen3": HISTORY | {"reason", "think"},
    "qwen3_5_think": HISTORY | {"reason", "think"},
    "qwen3_5_nothink": HISTORY,
    "qwen3_6": HISTORY | {"reason", "think"},
}
# They ask with the beginning of a reasoning that their texts leave out, so that no answer's own text
# begins as it is asked for; see `TestDeepSeeks`.
ASK_OTHERWISE = {"deepseek_r1_distill", "deepseekv3"}
# Its marks leave out what the shipped template makes the model write: the generation prompt does not
# open the turn behind a tool's response, and a call ends in the token that opens the response.
UNMARKED = {"diffusion_gemma": ("<|turn>model\n", "<|tool_response>")}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(content=""):
    function = {"name": "weather", "arguments": {"city": "Seoul"}}
    return assistant(
        content, tool_calls=[{"type": "function", "id": "abcdefghi", "function": function}]
    )


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look the weather up.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}
SUNNY = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "sunny"}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "single": [user("hi"), assistant("yo")],
    "multi": [user("hi"), assistant("yo there"), user("and?"), assistant("no.")],
    "system": [SYSTEM, user("hi"), assistant("yo"), user("x"), assistant("z")],
    "korean": [user("안녕하세요?"), assistant("네, 반가워요!"), user("뭐 해?"), assistant("그냥.")],
    "spaces": [user("  hi\n\n"), assistant(" \n yo \n"), user("x"), assistant("\n\nz ")],
    "empty": [user("hi"), assistant(""), user("x"), assistant("y")],
    "twice": [user("hi"), assistant("one"), assistant("two")],
    "tools": [user("weather?"), calling(), SUNNY, assistant("Sunny."), user("ok"), assistant("yes")],
    "reason": [
        user("hi"),
        assistant("yo", reasoning_content="hmm hmm"),
        user("x"),
        assistant("z", reasoning_content="well well"),
    ],
    "think": [
        user("hi"),
        assistant("<think>\nhmm hmm\n</think>\n\nyo"),
        user("x"),
        assistant("<think>\nwell well\n</think>\n\nz"),
    ],
    "trailing": [user("hi"), assistant("yo"), user("bye")],
}  # fmt: skip


@functools.cache
def tokenizers(folder):
    """Return transformers' tokenizer with every template's control tokens, and lmkit's of it."""
    found = set()
    for source in SOURCES.values():
        found |= set(re.findall(r"<\|[\w▁ ]+\|>|<｜[^｜<>]+｜>|<\|\w+>|<\w+\|>", source))
    named = ["<s>", "</s>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>"]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.add_special_tokens(
        {
            "additional_special_tokens": sorted(found | set(named)),
            "bos_token": "<s>",
            "eos_token": "<eos>",
        }
    )
    return theirs, Tokenizer.load(theirs)


class Template:
    """One template under transformers: what it writes, or that it refuses."""

    def __init__(self, name, tokenizer, variables):
        self.source, self.tokenizer, self.variables = SOURCES[name], tokenizer, variables
        self.parts = name.removesuffix("_training") in READ_PARTS
        self.encoded = name.startswith("deepseek") and not name.endswith("_training")

    def __call__(self, messages, tools=None, **options):
        messages = copy.deepcopy(messages)
        for message in messages:
            if self.parts:
                message["content"] = [{"type": "text", "text": message["content"]}]
            for call in message.get("tool_calls", ()) if self.encoded else ():
                call["function"]["arguments"] = '{"city": "Seoul"}'
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=self.source, **self.variables, **options
        )

    def text(self, messages, tools=None, *, ask=False):
        return self(messages, tools, tokenize=False, add_generation_prompt=ask)

    def ids(self, messages, tools=None, *, ask=False):
        found = self(messages, tools, tokenize=True, add_generation_prompt=ask, return_dict=True)
        return found["input_ids"]

    def mask(self, messages, tools=None):
        found = self(
            messages, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return found["input_ids"], found["assistant_masks"]

    def marked(self, messages, tools=None):
        """Return the texts that the marks hold, one an answer."""
        ids, mask = self.mask(messages, tools)
        turns = [len(self.ids(messages[:i], tools)) for i in answers(messages)]
        held = ["" for _ in turns]
        for turn, (start, end) in enumerate(itertools.pairwise([*turns, len(ids)])):
            held[turn] = self.tokenizer.decode(
                [token for token, mark in list(zip(ids, mask, strict=True))[start:end] if mark]
            )
        return held


def answers(messages):
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def accepted(template, messages, tools):
    """Say whether transformers renders a conversation, and each of its prompts begins what follows."""
    try:
        template.text(messages, tools)
        return all(
            template.text(messages[: i + 1], tools).startswith(
                template.text(messages[:i], tools, ask=True)
            )
            for i in answers(messages)
        )
    except Exception:  # whatever a template raises
        return False


def task_of(source, variables):
    return lk.get_task("chat").evolve(
        formatter=lk.Chat(template=source, variables=variables),
        collator=lk.CausalCollator(max_length=100_000),
    )


def learned_runs(row, tokenizer):
    """Return the texts that a row learns, those that touch joined."""
    runs, before = [], False
    for token, label in zip(row.input_ids.tolist(), row.labels.tolist(), strict=True):
        if label != IGNORE:
            runs[-1:] = [[*runs[-1], token]] if before else [*runs[-1:], [token]]
        before = label != IGNORE
    return [tokenizer.decode(run, skip_control=False) for run in runs]


@functools.cache
def rows_of(name, without_thinking, folder):
    """Return, for each conversation that a template takes, its texts as rows."""
    variables = {"enable_thinking": False} if without_thinking else {}
    theirs, ours = tokenizers(folder)
    template, task = Template(name, theirs, variables), task_of(SOURCES[name], variables)
    found = {}
    for title, messages in CONVERSATIONS.items():
        tools = [WEATHER] if title == "tools" else None
        if accepted(template, messages, tools):
            rows = lk.encode(task, [{"messages": messages, "tools": tools}], ours)
            found[title] = (messages, tools, rows)
    return template, task, ours, found


CASES = [
    pytest.param(name, variables, id=f"{name}{' without thinking' if variables else ''}")
    for name, source in SOURCES.items()
    for variables in ([{}, {"enable_thinking": False}] if "enable_thinking" in source else [{}])
]


@pytest.mark.parametrize(("name", "variables"), CASES)
class TestEveryTemplate:
    @pytest.fixture
    def rows(self, name, variables, shared):
        return rows_of(name, bool(variables), shared / "tokenizers" / "qwen2")

    def test_is_refused_only_where_transformers_refuses_it_or_its_prompts_begin_nothing(
        self, name, variables, shared
    ):
        theirs, ours = tokenizers(shared / "tokenizers" / "qwen2")
        template, task = Template(name, theirs, variables), task_of(SOURCES[name], variables)
        for title, messages in CONVERSATIONS.items():
            tools = [WEATHER] if title == "tools" else None
            try:
                lk.encode(task, [{"messages": messages, "tools": tools}], ours)
            except TemplateError:
                assert not accepted(template, messages, tools), title

    def test_teaches_every_answer_once_as_it_is_asked_for(self, rows):
        """What transformers writes behind the prompt, up to white space behind the end."""
        template, _, tokenizer, found = rows
        marked = "endgeneration" in template.source
        for title, (messages, tools, encoded) in found.items():
            expected = []
            for index in answers(messages):
                asked = template.text(messages[:index], tools, ask=True)
                own = template.text(messages[: index + 1], tools)
                expected.append(own[len(asked) :].rstrip("\n "))
            runs = [run for row in encoded for run in learned_runs(row, tokenizer)]

            if not marked:  # else `test_learns_what_the_marks_say`
                assert len(runs) == len(expected), title
                for run, answer in zip(runs, in_order(encoded, expected, tokenizer), strict=True):
                    assert same_answer(run, answer), (title, run, answer)

    def test_gives_the_last_text_as_transformers_gives_it(self, rows):
        template, _, tokenizer, found = rows
        for title, (messages, tools, encoded) in found.items():
            written = tokenizer.decode(encoded[-1].input_ids, skip_control=False)
            wholes = [messages, messages[: answers(messages)[-1] + 1]]
            texts = [template.text(whole, tools) for whole in wholes]

            assert written in texts or written.removesuffix("<eos>") in texts, title

    def test_gives_the_ids_that_transformers_gives_unless_a_prompt_of_those_is_no_prefix(
        self, rows
    ):
        template, _, tokenizer, found = rows
        for title, (messages, tools, encoded) in found.items():
            cut = differs(encoded[-1], template.text(messages, tools), tokenizer)
            part = messages[: answers(messages)[-1] + 1] if cut else messages
            expected = template.ids(part, tools)
            prompts = [
                template.ids(part[:i], tools, ask=True)
                for i in answers(part)
                if template.text(part, tools).startswith(template.text(part[:i], tools, ask=True))
            ]
            if all(expected[: len(prompt)] == prompt for prompt in prompts):
                ids = encoded[-1].input_ids.tolist()

                assert ids in (expected, [*expected, tokenizer.eos_id]), title

    def test_learns_what_the_marks_say_if_there_are_some(self, rows):
        """In a text of several, the answers that another one teaches are left out."""
        template, _, _, found = rows
        for title, (messages, tools, encoded) in found.items():
            if "endgeneration" in template.source and len(encoded) == 1:
                ids, mask = template.mask(messages, tools)
                if encoded[0].input_ids.tolist() == ids:
                    assert (encoded[0].labels != IGNORE).astype(int).tolist() == mask, title

    def test_begins_the_text_that_teaches_an_answer_with_its_prompt(self, rows):
        _, task, tokenizer, found = rows
        for title, (messages, tools, encoded) in found.items():
            for index in answers(messages):
                record = {"messages": messages[:index], "tools": tools}
                asked = lk.prompt_ids(task, record, tokenizer)
                begun = [
                    row
                    for row in encoded
                    if np.array_equal(row.input_ids[: len(asked)], asked)
                    and (row.labels[len(asked) :] != IGNORE).any()
                ]

                assert begun, (title, index)

    def test_ends_every_row_with_something_to_learn_that_stops_generation(self, rows):
        *_, tokenizer, found = rows
        for title, (_, _, encoded) in found.items():
            for row in encoded:
                last = row.labels[row.labels != IGNORE].tolist()
                while not tokenizer.decode(last[-1:], skip_control=False).strip():
                    last.pop()

                assert tokenizer.ends_turn(last[-1]), title


def in_order(encoded, expected, tokenizer):
    """Return the answers in the order in which the rows have them."""
    left = list(expected)
    ordered = []
    for row in encoded:
        for run in learned_runs(row, tokenizer):
            match = next((answer for answer in left if same_answer(run, answer)), None)
            if match is not None:
                left.remove(match)
            ordered.append(match)
    return ordered


def same_answer(run, answer):
    """Say whether a learned text is an answer, whatever token ends the conversation or the turn.

    Phi-3's writes an EOS behind the last answer only; GLM's ends none, so the next turn's token does.
    """
    if answer is None:
        return False
    ends = r"(<eos>|<\|user\|>|<\|observation\|>|<\|system\|>|\s)*$"
    return re.sub(ends, "", run) == re.sub(ends, "", answer)


@pytest.mark.parametrize("name", sorted(TWINS.keys() - ASK_OTHERWISE))
def test_a_template_without_marks_learns_what_its_twin_marks(name, shared):
    """But for what the prompt supplies, and white space behind an end, which no model has to write."""
    theirs, ours = tokenizers(shared / "tokenizers" / "qwen2")
    shipped, twin = Template(name, theirs, {}), Template(TWINS[name], theirs, {})
    task, compared, differing = task_of(SOURCES[name], {}), set(), set()
    for title, messages in CONVERSATIONS.items():
        tools = [WEATHER] if title == "tools" else None
        if not accepted(shipped, messages, tools):
            continue
        if shipped.text(messages, tools) != twin.text(messages, tools):
            differing.add(title)
            continue
        rows = lk.encode(task, [{"messages": messages, "tools": tools}], ours)
        runs = [run for row in rows for run in learned_runs(row, ours)]
        held = twin.marked(messages, tools)
        compared.add(title)

        assert len(runs) == len(held), title
        for index, mark in zip(answers(messages), held, strict=True):
            asked = shipped.text(messages[:index], tools, ask=True)
            wanted = behind_the_prompt(mark, asked)
            if differs(rows[-1], shipped.text(messages, tools), ours) or len(rows) > 1:
                [*_, last] = twin.marked(messages[: index + 1], tools)
                wanted |= behind_the_prompt(last, asked)
            assert any(bare(run, name) in wanted for run in runs), (title, index, wanted, runs)

    assert differing == OTHER_TEXTS.get(name, set())
    assert compared


def differs(row, text, tokenizer):
    """Say whether a row is not a whole conversation, but the text of an answer's own."""
    return tokenizer.decode(row.input_ids, skip_control=False) not in (text, f"{text}<eos>")


def behind_the_prompt(mark, asked):
    """Return what a mark may hold behind a prompt, with which it may begin."""
    starts = [n for n in range(len(mark) + 1) if asked.endswith(mark[:n])]
    return {mark[n:].rstrip("\n ") for n in starts}


def bare(run, name):
    for unmarked in UNMARKED.get(name, ()):
        run = run.removeprefix(unmarked).removesuffix(unmarked)
    return run.rstrip("\n ")


class TestDeepSeeks:
    """They ask with `<think>`, and leave reasoning out of every text."""

    @pytest.mark.parametrize("name", sorted(ASK_OTHERWISE))
    def test_learns_the_reasoning_that_the_prompt_begins_as_the_twin_writes_it(self, name, shared):
        theirs, ours = tokenizers(shared / "tokenizers" / "qwen2")
        messages = CONVERSATIONS["think"]
        rows = lk.encode(task_of(SOURCES[name], {}), [{"messages": messages}], ours)

        assert [learned_runs(row, ours) for row in rows] == [
            ["hmm hmm\n</think>\n\nyo<｜end▁of▁sentence｜>"],
            ["well well\n</think>\n\nz<｜end▁of▁sentence｜>"],
        ]
        # The twin of DeepSeek-R1 keeps the reasoning: its text of one exchange is the same.
        twin = Template("deepseek_r1_distill_training", theirs, {})
        first = ours.decode(rows[0].input_ids, skip_control=False)

        assert first == twin.text(messages[:2])

    @pytest.mark.parametrize("name", sorted(ASK_OTHERWISE))
    def test_is_refused_for_an_answer_without_reasoning(self, name, shared):
        _, ours = tokenizers(shared / "tokenizers" / "qwen2")

        with pytest.raises(TemplateError, match=r"asks for turn 1 (?s:.*)<think>"):
            lk.encode(task_of(SOURCES[name], {}), [{"messages": CONVERSATIONS["single"]}], ours)
