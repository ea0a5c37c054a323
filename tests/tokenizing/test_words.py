import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from toys import llama

import lmkit as lk
from lmkit.tokenizing import Tokenizer
from lmkit.tokenizing.words import Words


def words_of(text, tokenizer):
    ids = np.array(tokenizer.encode(text))
    number = Words(tokenizer).number(ids, np.ones(len(ids), bool))
    groups = [ids[number == word].tolist() for word in range(number[-1] + 1)]
    return [tokenizer.decode(group, skip_control=False).strip() for group in groups]


def test_wordpiece_says_with_its_prefix_what_continues_a_word(load_shared):
    found = words_of("안녕하세요, 한국어 문장입니다.", load_shared("koelectra-wordpiece"))

    assert found == ["안녕하세요", ",", "한국어", "문장입니다", "."]


def test_a_cleaning_decoder_does_not_glue_punctuation_to_words(load_shared):
    found = words_of("can't stop, really!", load_shared("bert-base-uncased"))

    assert found == ["can", "'", "t", "stop", ",", "really", "!"]


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "qwen2"])
def test_byte_level_bpe_says_it_with_the_space_before_a_word(name, load_shared):
    found = words_of("한국어 문장입니다. 👩‍👩‍👧 really", load_shared(name))

    assert found == ["한국어", "문장입니다.", "👩‍👩‍👧", "really"]


def test_a_token_that_ends_in_white_space_ends_a_word(load_shared):
    assert words_of("one!\ntwo", load_shared("qwen2")) == ["one!", "two"]


@pytest.mark.parametrize("kind", ["legacy", "first"])
def test_sentencepiece_says_it_with_its_own_mark(kind):
    tokenizer = Tokenizer.load(llama(kind))

    assert words_of("hi yo hiyo 영화", tokenizer) == ["hi", "yo", "hiyo", "영화"]


def test_word_ends_say_it_too():
    pieces = ["<unk>", "a", "b", "a</w>", "b</w>", "ab</w>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(vocabulary, [("a", "b</w>")], unk_token="<unk>", end_of_word_suffix="</w>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder()

    assert words_of("ba ab a", Tokenizer.load(backend)) == ["ba", "ab", "a"]


def test_a_character_tokenizer_has_words_between_its_spaces():
    tokenizer = lk.train_tokenizer(kind="char", data=[{"text": "영화 정말"}])

    assert words_of("영화 정말", tokenizer) == ["영화", "정말"]


def test_what_is_not_within_parts_words(toy):
    ids = np.array(toy.encode("abcd"))
    within = np.array([True, True, False, True])

    assert Words(toy).number(ids, within).tolist() == [0, 0, 1]
