"""What holds of any conversation under every chat template that TRL ships."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kinds import Kind, kind
from test_properties import BITS, THOROUGH, holds, runs, task
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

import lmkit as lk
from lmkit.encoding import encode, prompt_ids
from lmkit.errors import TemplateError
from lmkit.tokenizing import Tokenizer

trl = pytest.importorskip("trl")

FOLDER = Path(trl.__file__).parent / "chat_templates"
SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
TAG = re.compile(r"<\|?[^<>\s'\"{}]{1,40}\|?>|\[/?[A-Z_]+\]|<｜[^<>]*｜>")
MARK = re.compile(r"</?(think|tool_call|tools|tool_response|function|parameter|answer).*>")
# They ask with the beginning of a reasoning, which no answer here begins with.
ASK_OTHERWISE = (
    "deepseek_r1_distill",
    "deepseek_r1_distill_training",
    "deepseekv3",
    "deepseekv3_training",
)
WHOLE = lk.CausalCollator(max_length=100_000)


@functools.cache
def of_template(name: str) -> Kind:
    """Return a byte-level tokenizer with a template's control tokens and marks."""
    backend = Backend.from_str(kind("bpe with a space").tokenizer.definition)
    for tag in sorted({match.group() for match in TAG.finditer(SOURCES[name])}):
        special = MARK.fullmatch(tag) is None
        added = AddedToken(tag, special=special, normalized=False)
        (backend.add_special_tokens if special else backend.add_tokens)([added])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return Kind(Tokenizer(backend.to_str(), special=special, chat_template=SOURCES[name]))


@st.composite
def conversations(draw, of: Kind):
    """Return exchanges of words that are not blank, which some templates leave out."""
    tokens = [token.text for token in (*of.tokenizer.marks, *of.tokenizer.control)]
    words = st.one_of(
        st.sampled_from(["hello", "a b\n", " x ", "한국"]),
        st.text(min_size=1, max_size=6),
        st.lists(st.sampled_from([*tokens[:30], *BITS]), min_size=1, max_size=3).map("".join),
    ).filter(str.strip)
    pairs = draw(st.lists(st.tuples(words, words), min_size=1, max_size=3))
    roles = ("user", "assistant")
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(roles, pair, strict=True)
    ]


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ASK_OTHERWISE])
@settings(holds, max_examples=THOROUGH or 6)
@given(st.data(), st.sampled_from(["assistant", "last"]))
def test_a_conversation_begins_with_its_prompt_and_has_its_turns_whatever_is_said(
    name, data, learn
):
    of = of_template(name)
    messages = data.draw(conversations(of))
    thinking = {"enable_thinking": False} if "enable_thinking" in SOURCES[name] else {}
    made = task(lk.Chat(learn=learn, variables=thinking), WHOLE)
    try:
        rows = encode(made, [{"messages": messages}], of.tokenizer)
    except TemplateError:  # it asks otherwise than it answers
        assume(False)
    asked = prompt_ids(made, {"messages": messages}, of.tokenizer)

    assert rows[-1].input_ids[: len(asked)].tolist() == asked.tolist()
    answers = sum(message["role"] == "assistant" for message in messages)
    assert len([run for row in rows for run in runs(row)]) == (answers if learn != "last" else 1)
    if not any(mark.text in m["content"] for mark in of.tokenizer.marks for m in messages):
        innocent = [{**message, "content": "a"} for message in messages]
        other = encode(made, [{"messages": innocent}], of.tokenizer)[-1]
        assert of.acting(rows[-1].input_ids) == of.acting(other.input_ids)
