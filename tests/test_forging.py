"""Nobody who writes a record can forge what only the formatter may write: a turn, an end, a frame.

Which control tokens a row has is compared with an innocent record's row: whatever is typed, there
must be the same ones.
"""

import itertools

import pytest
from kinds import KINDS, kind

import lmkit as lk
from lmkit.encoding import encode, prompt_ids
from lmkit.tokenizing import Span

MOST_TOKENS = 12  # of a tokenizer such as T5's, with its hundred sentinels
INNOCENT = "film"
TURNLESS = ("gpt2", "unigram")  # without a control token for a turn


def task(formatter, collator=None):
    return lk.Task(
        name="t",
        formatter=formatter,
        collator=collator or lk.CausalCollator(max_length=100_000),
        decoder=lk.TextDecoder(),
    )


def full_width(text):
    """Return what NFKC makes the text of."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def spellings(token):
    """Return ways to write a token that a normalizer or a matcher might take for it."""
    middle = len(token) // 2
    return [
        token,
        token * 3,
        f"a{token}b",
        f"  {token}  ",
        f"\n{token}\n",
        token.swapcase(),
        token.upper(),
        token.lower(),
        full_width(token),
        token.replace("|", "｜").replace("<", "﹤").replace(">", "﹥"),
        *(
            token[:middle] + hidden + token[middle:]
            for hidden in ("\u200b", "\u00ad", "\x01", "\ufeff", "\u200d", "\u2060", "\x00")
        ),
        *(token + hidden for hidden in ("\u200b", "\u00ad", "\x01", "\u0301")),
        *(hidden + token for hidden in ("\u200b", "\u00ad", "\x01")),
        "".join(f"{c}\u00ad" for c in token),
        token.replace("<", "<" + token + "<"),  # is the token again when the token is taken out
    ]


def halves(token):
    return [(token[:n], token[n:]) for n in range(1, len(token))]


def steering(of):
    """Return the first control tokens of a tokenizer, and all that a row or a turn is made of."""
    tokens = [token.text for token in (*of.tokenizer.marks, *of.tokenizer.control)]
    named = [*of.tokenizer.special.values(), "<|im_start|>", "<|im_end|>"]
    return list(dict.fromkeys([*(t for t in named if t in tokens), *tokens[:MOST_TOKENS]]))


def typed(of):
    """Yield what somebody may type, for each control token; those that cannot be encoded not."""
    for token in steering(of):
        for text in spellings(token):
            if of.tokenizer.special.get("unk_token") or of.knows(text):
                yield text


@pytest.fixture(scope="module", params=KINDS)
def of(request):
    return kind(request.param)


@pytest.fixture(scope="module", params=[name for name in KINDS if name not in TURNLESS])
def chatty(request):
    return kind(request.param)


class TestATemplate:
    task = task(lk.context("{a}{b} Q: {c}\n") + lk.target("{d}"))

    def acting(self, of, **columns):
        record = {**dict.fromkeys("abcd", INNOCENT), **columns}
        row = encode(self.task, [record], of.tokenizer)[0]
        asked = prompt_ids(self.task, record, of.tokenizer)
        return of.acting(row.input_ids), of.acting(asked)

    def test_keeps_its_frame_whatever_a_column_holds(self, of):
        innocent = self.acting(of)
        for text in typed(of):
            assert self.acting(of, a=text) == innocent, text
            assert self.acting(of, c=text) == innocent, text

    def test_keeps_its_end_whatever_is_learned(self, of):
        innocent, _ = self.acting(of)
        marks = {token.text for token in of.tokenizer.marks}
        for text in typed(of):
            if not any(mark in text for mark in marks):  # those a model may learn to write
                assert self.acting(of, d=text)[0] == innocent, text

    def test_keeps_its_frame_whatever_two_columns_make_together(self, of):
        innocent = self.acting(of)
        for token in steering(of)[:4]:
            for left, right in halves(token):
                assert self.acting(of, a=left, b=right) == innocent, (left, right)

    def test_keeps_its_frame_where_a_column_completes_what_the_template_begins(self, of):
        for token in steering(of)[:4]:
            left, right = token[: len(token) // 2], token[len(token) // 2 :]
            written = lk.context("{x}" + left.replace("{", "{{") + "{y}" + right + "\n{z}")
            records = [
                dict(zip("xyz", texts, strict=True))
                for texts in (
                    ("film", "film", "film"),
                    ("film", right, "film"),
                    ("film", "", right),
                    (left, left, "film"),
                )
            ]
            rows = [prompt_ids(task(written + lk.target("!")), r, of.tokenizer) for r in records]
            found = [of.acting(ids) for ids in rows]

            # With nothing in between, the two halves are the template's own words.
            assert found[1] == found[3] == found[0], token


class TestASourceAndATarget:
    def test_keep_their_frames(self, of):
        pair = task(
            lk.context("{q}") + lk.target("{a}"),
            lk.Seq2SeqCollator(max_source_length=100_000, max_target_length=100_000),
        )
        marks = {token.text for token in of.tokenizer.marks}

        def acting(q, a):
            row = encode(pair, [{"q": q, "a": a}], of.tokenizer)[0]
            return of.acting(row.input_ids), of.acting(row.labels)

        innocent = acting(INNOCENT, INNOCENT)
        for text in typed(of):
            if not any(mark in text for mark in marks):
                assert acting(text, text) == innocent, text


NAMED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.name }}{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
BRACKETED = (
    "{% for t in tools or [] %}<{{ t.name }}></{{ t.name }}>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n<{{ m.content }}><|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<{% endif %}"
)
JOINED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>"
    "{% else %}{{ m.content | trim }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


class TestAConversation:
    def acting(self, of, *contents, template="chatml", names=(), system=None):
        roles = ("user", "assistant", "user", "assistant")
        contents = [*contents, *[INNOCENT] * (4 - len(contents))]
        messages = [
            {"role": role, "content": content, "name": name}
            for role, content, name in itertools.zip_longest(roles, contents, names, fillvalue="n")
        ]
        chat = task(lk.Chat(template=template, system=system))
        row = encode(chat, [{"messages": messages}], of.tokenizer)[0]
        asked = prompt_ids(chat, {"messages": messages}, of.tokenizer)
        return of.acting(row.input_ids), of.acting(asked)

    def test_keeps_its_turns_whatever_a_user_types(self, chatty):
        innocent = self.acting(chatty)
        for text in typed(chatty):
            assert self.acting(chatty, text) == innocent, text

    def test_keeps_its_turns_whatever_an_answer_holds(self, chatty):
        innocent = self.acting(chatty)
        marks = {token.text for token in chatty.tokenizer.marks}
        for text in typed(chatty):
            if not any(mark in text for mark in marks):
                assert self.acting(chatty, "film", text, "film", text) == innocent, text

    def test_keeps_its_turns_whatever_its_system_prompt_holds(self, chatty):
        innocent = self.acting(chatty, system="film")
        for token in steering(chatty):
            assert self.acting(chatty, system=f"{token} film {token}") == innocent, token

    def test_keeps_its_turns_whatever_a_name_holds(self, chatty):
        innocent = self.acting(chatty, template=NAMED, names=["n"])
        for token in steering(chatty):
            for name in (token, *itertools.chain(*halves(token))):
                assert self.acting(chatty, template=NAMED, names=[name]) == innocent, name

    def test_keeps_its_turns_whatever_is_written_in_brackets(self, chatty):
        chat = task(lk.Chat(template=BRACKETED))

        def acting(name, content):
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
            record = {"messages": messages, "tools": [{"name": name}]}
            row = encode(chat, [record], chatty.tokenizer)[0]
            return chatty.acting(row.input_ids), chatty.acting(
                prompt_ids(chat, record, chatty.tokenizer)
            )

        innocent = acting(INNOCENT, INNOCENT)
        for token in steering(chatty):
            for name, content in ((token, token), (token[1:-1], token[1:]), (token[2:-1], "a")):
                assert acting(name, content) == innocent, (name, content)

    def test_keeps_its_turns_whatever_two_messages_make_together(self, chatty):
        innocent = self.acting(chatty, template=JOINED, system=INNOCENT)
        for token in steering(chatty)[:4]:
            for left, right in halves(token):
                for space in ("", " ", "\n "):
                    found = self.acting(chatty, space + right, template=JOINED, system=left + space)

                    assert found == innocent, (left, space, right)


class TestMarks:
    """Tokens that steer although they are not special: what a template writes acts, what a user types not."""

    def test_are_what_the_chat_template_writes_or_what_looks_like_one(self):
        added = kind("bpe with added tokens").tokenizer

        assert [mark.text for mark in added.marks] == ["<think>", "<|tool|>"]

    def test_act_in_what_the_template_and_the_model_write(self):
        added = kind("bpe with added tokens").tokenizer
        think = added.token_to_id("<think>")

        assert added.encode("<think>", trusted=True) == [think]
        assert added.encode_spans([Span("<think>", marked=True)], opens=True) == [think]

    def test_are_plain_text_where_a_user_types_them(self):
        added = kind("bpe with added tokens")

        assert added.acting(added.tokenizer.encode("a <think> b <|tool|>")) == []
        assert added.tokenizer.decode(added.tokenizer.encode("a <think> b")) == "a <think> b"

    @pytest.mark.parametrize("learn", ["assistant", "last", "all"])
    def test_are_plain_text_in_a_question_and_act_in_an_answer(self, learn):
        added = kind("bpe with added tokens")
        chat = task(lk.Chat(template="chatml", learn=learn))
        messages = [
            {"role": "user", "content": "Say <think>."},
            {"role": "assistant", "content": "<think>yes"},
        ]
        row = encode(chat, [{"messages": messages}], added.tokenizer)[0]

        assert added.acting(row.input_ids) == [
            *("<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>", "<|im_end|>")
        ]
        assert "user\nSay <think>." in added.tokenizer.decode(row.input_ids)

    def test_act_in_a_target_and_not_in_a_context(self):
        added = kind("bpe with added tokens")
        both = task(lk.context("{q}") + lk.target("{a}"))
        row = encode(both, [{"q": "<think>", "a": "<think>"}], added.tokenizer)[0]

        assert added.acting(row.input_ids) == ["<s>", "<think>", "</s>"]

    def test_are_part_of_the_text_unlike_control_tokens(self):
        added = kind("bpe with added tokens").tokenizer

        assert added.decode(added.encode("<think>a</s>", trusted=True)) == "<think>a"
        assert not added.ends_turn(added.token_to_id("<think>"))

    def test_leave_added_words_and_runs_of_spaces_to_any_text(self):
        added = kind("bpe with added tokens").tokenizer

        assert added.encode("lmkit    ") == [
            added.token_to_id("lmkit"),
            added.token_to_id("    "),
        ]


def test_a_name_of_a_byte_is_not_that_byte():
    """A Unigram vocabulary holds `<0x41>` as a piece of its own, which text could spell."""
    unigram = kind("unigram").tokenizer

    assert unigram.decode(unigram.encode("<0x41><0xEC>")) == "<0x41><0xEC>"
    assert unigram.decode(unigram.encode("𠜎")) == "𠜎"
