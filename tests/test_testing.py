import pytest

import lmkit as lk
from lmkit.errors import TaskError
from lmkit.testing import check_task, sample_record, toy_tokenizer
from lmkit.values import value

MLM, QA = lk.get_task("mlm"), lk.get_task("qa")


class TestTheToyTokenizer:
    def test_has_a_mask_token_behind_all_others(self):
        toy = toy_tokenizer()

        assert toy.mask_id == toy.vocab_size - 1
        assert toy.decode([toy.mask_id]) == ""

    def test_still_has_a_token_for_each_character(self):
        assert [toy_tokenizer().id_to_token(t) for t in toy_tokenizer().encode("네, a")] == [
            *"네, a"
        ]


@pytest.mark.parametrize("task", [MLM, QA], ids=lambda task: task.name)
def test_a_sample_record_passes_the_check(task):
    check_task(task, [sample_record(task)])


class TestAMaskedTask:
    def test_passes_on_korean_and_english(self):
        check_task(MLM, [{"text": "영화는 정말 좋았다"}, {"text": "a"}])

    def test_passes_with_a_tokenizer_that_frames_texts(self, load_shared):
        check_task(MLM, [{"text": "영화는 정말 좋았다"}], load_shared("koelectra-wordpiece"))

    def test_with_a_record_that_holds_nothing_does_not(self):
        with pytest.raises(TaskError, match="nothing is learned from"):
            check_task(MLM, [{"text": ""}])

    def test_that_frames_prompts_otherwise_does_not(self):
        @value
        class Unframed(lk.MaskedCollator):
            def prompt(self, segments, tokenizer, *, delimited):
                return super().prompt(segments, tokenizer, delimited=True)

        from toys import wordpiece

        from lmkit.testing import _check_masked

        task = MLM.evolve(collator=Unframed())
        row = lk.encode(task, [{"text": "a film"}], wordpiece())[0]
        with pytest.raises(TaskError, match="the prompt is framed otherwise"):
            _check_masked(task, {"text": "a film"}, row, wordpiece())
