"""Tokenizers that are made in code: one to check by eye, and one of each make."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import Any

from lmkit.chat import CHATML
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import CONTROL, END, PAD, UNKNOWN, train_tokenizer

MASK = "<|mask|>"
TOY = "toy"
TURNS = ("<|im_start|>", "<|im_end|>")  # what the ChatML template is made of

_TEXT = (
    "What is a film? A film is a moving picture, 12 of them, don't you know!\n"
    "영화는 정말 좋았다. 질문: 한국어 문장입니까?\n답변: 네, 맞아요. 오늘은 날씨가 좋습니다.\n"
    "Question: is it free?\nAnswer: yes, it is. The quick brown fox jumps over the lazy dog.\n"
)


@functools.lru_cache(maxsize=1)
def toy_tokenizer() -> Tokenizer:
    """Return a tokenizer in which every character is one token.

    It knows printable ASCII, Hangul syllables and a few control tokens, ends texts with
    `<|endoftext|>`, hides tokens behind `<|mask|>`, and has a ChatML template.

    >>> toy_tokenizer().decode(toy_tokenizer().encode("네, yes"))
    '네, yes'
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    letters = ["\n", "\t", *map(chr, range(32, 127)), *map(chr, range(0xAC00, 0xD7A4))]
    vocabulary = {text: index for index, text in enumerate([*CONTROL, *letters])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(CONTROL))
    tokenizer = Tokenizer(
        backend.to_str(),
        special={"eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN},
        chat_template=CHATML,
    )
    return tokenizer.with_special("mask_token", MASK)


@functools.lru_cache(maxsize=3)
def small_tokenizers(family: Family | str = Family.CAUSAL) -> MappingProxyType[str, Tokenizer]:
    """Return small tokenizers of the makes that models of a family have, by name.

    The toy is always the first. The others merge characters, put a token before a text, or read a
    space as part of the word behind it: what a label that is off by one token stumbles over. All
    have an EOS, a pad token and a ChatML template; those for masked models have a mask token.

    >>> list(small_tokenizers("masked"))
    ['toy', 'wordpiece']
    """
    if Family(family) is Family.MASKED:
        return MappingProxyType({TOY: toy_tokenizer(), "wordpiece": _learned("wordpiece", 400)})
    return MappingProxyType(
        {TOY: toy_tokenizer(), "byte-level bpe": _learned("bpe", 400), "unigram": _unigram()}
    )


def _learned(kind: str, size: int) -> Tokenizer:
    return train_tokenizer(kind=kind, data=[{"text": _TEXT}] * 4, vocab_size=size)


def _unigram() -> Tokenizer:
    """Return one of SentencePiece's make that opens a text with `<s>`, as Llama's does."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    backend = Backend.from_str(_learned("unigram", 500).definition)
    backend.add_special_tokens(["<s>", *TURNS])
    ids: Any = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Tokenizer(backend.to_str(), special=special, chat_template=CHATML)
