"""What a token writes, byte by byte: joined, the bytes of a text's tokens are the text."""

import pytest

from lmkit.testing import small_tokenizers
from lmkit.tokenizing.token_bytes import token_bytes

TEXTS = ["hello world", "안녕하세요, 네!", "👩‍👩‍👧 x", "a\n\n  b", "naïve café"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["byte-level bpe", "unigram"])
def test_joined_they_are_the_text(name, text):
    tokenizer = small_tokenizers()[name]
    ids = tokenizer.encode(text)

    joined = b"".join(token_bytes(tokenizer, token) for token in ids)

    assert joined.decode().removeprefix(" ") == tokenizer.decode(ids)


def test_a_token_may_be_part_of_a_character():
    tokenizer = small_tokenizers()["byte-level bpe"]
    pieces = [token_bytes(tokenizer, token) for token in tokenizer.encode("👩")]

    assert len(pieces) > 1
    assert b"".join(pieces) == "👩".encode()


def test_a_control_token_is_its_name():
    tokenizer = small_tokenizers()["byte-level bpe"]
    (first, *_) = tokenizer.control

    assert token_bytes(tokenizer, first.id) == first.text.encode()


def test_an_id_without_a_token_writes_nothing():
    tokenizer = small_tokenizers()["byte-level bpe"]

    assert token_bytes(tokenizer, 10**6) == b""


def test_the_rest_of_a_word_has_no_marks():
    tokenizer = small_tokenizers("masked")["wordpiece"]
    ids = tokenizer.encode("hello")

    assert b"".join(token_bytes(tokenizer, token) for token in ids) == b"hello"
