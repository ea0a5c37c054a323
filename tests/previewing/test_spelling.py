"""What each token adds to a row's text: characters whole, kinds apart, control tokens by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.encoding import IGNORE, Whole
from lmkit.previewing.spelling import spelled

BYTES = ("gpt2", "qwen2", "smollm2")


def whole(ids, learned=(), kept=None):
    ids = np.array(ids)
    labels = np.where(np.isin(np.arange(len(ids)), list(learned)), ids, IGNORE)
    return Whole(ids, labels, np.ones(len(ids), dtype=bool) if kept is None else np.array(kept))


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("text", ["안녕하세요", "값이 👩‍👩‍👧 싸다", "한글\n줄", "가𠮷나"])
def test_a_character_of_several_tokens_stands_in_the_first(load_shared, name, text):
    tokenizer = load_shared(name)
    tokens = spelled(whole(tokenizer.encode(text)), tokenizer)

    assert "".join(token.text for token in tokens) == text
    assert not any("\ufffd" in token.text for token in tokens)
    assert len(tokens) == len(tokenizer.encode(text))


@given(text=st.text(max_size=40))
def test_the_texts_join_to_the_rows(load_shared, text):
    tokenizer = load_shared("gpt2")
    ids = tokenizer.encode(text)

    assert "".join(t.text for t in spelled(whole(ids), tokenizer)) == tokenizer.decode(ids)


def test_nothing_is_carried_over_from_what_is_read_to_what_is_learned(load_shared):
    tokenizer = load_shared("qwen2")
    asked, said = tokenizer.encode("답변:"), tokenizer.encode(" 뷁", opens=False)
    learned = range(len(asked), len(asked) + len(said))
    tokens = spelled(whole(asked + said, learned), tokenizer)

    assert "".join(t.text for t in tokens if t.kind == "read") == "답변:"
    assert "".join(t.text for t in tokens if t.kind == "learned") == " 뷁"


def test_half_a_character_is_seen_where_the_rest_is_cut_off(load_shared):
    tokenizer = load_shared("gpt2")
    ids = tokenizer.encode("뷁")
    tokens = spelled(whole(ids, kept=[False, *[True] * (len(ids) - 1)]), tokenizer)

    assert [token.kind for token in tokens] == ["cut", *["read"] * (len(ids) - 1)]
    assert "\ufffd" in tokens[0].text


def test_a_control_token_is_its_name_and_plain_text_that_spells_it_is_not_one(toy):
    ids = [*toy.encode("a"), toy.eos_id, *toy.encode("<s>")]
    tokens = spelled(whole(ids), toy)

    assert [t.text for t in tokens if t.control] == ["<|endoftext|>"]
    assert "".join(t.text for t in tokens if not t.control) == "a<s>"
