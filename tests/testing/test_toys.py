import pytest

import lmkit as lk
from lmkit.testing import small_tokenizers, toy_tokenizer


class TestTheToyTokenizer:
    def test_has_a_mask_token_behind_all_others(self):
        toy = toy_tokenizer()

        assert toy.mask_id == toy.vocab_size - 1
        assert toy.decode([toy.mask_id]) == ""

    def test_still_has_a_token_for_each_character(self):
        assert [toy_tokenizer().id_to_token(t) for t in toy_tokenizer().encode("네, a")] == [
            *"네, a"
        ]


@pytest.mark.parametrize("family", list(lk.Family))
class TestTheSmallTokenizers:
    def test_are_the_toy_and_others_of_the_makes_of_a_family(self, family):
        first, *others = small_tokenizers(family)

        assert first == "toy"
        assert others == (
            ["wordpiece"] if family is lk.Family.MASKED else ["byte-level bpe", "unigram"]
        )

    def test_know_korean(self, family):
        for tokenizer in small_tokenizers(family).values():
            ids = tokenizer.encode("영화는 정말 좋았다.")

            assert tokenizer.decode(ids).strip() == "영화는 정말 좋았다."

    def test_have_what_a_family_needs(self, family):
        for tokenizer in small_tokenizers(family).values():
            assert tokenizer.pad_id is not None
            if family is lk.Family.MASKED:
                assert tokenizer.mask_id is not None
            else:
                assert tokenizer.eos_id is not None
                assert tokenizer.chat_template is not None

    def test_merge_characters_but_for_the_toy(self, family):
        lengths = [
            len(tokenizer.encode("영화는 정말 좋았다. The quick brown fox"))
            for tokenizer in small_tokenizers(family).values()
        ]

        assert max(lengths[1:]) < lengths[0]
