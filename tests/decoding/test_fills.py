"""Fills are compared with those of transformers' own fill-mask pipeline."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from toys import wordpiece

import lmkit as lk
from lmkit.decoding import Decoder, Filler
from lmkit.decoding.fills import FillMaskDecoder
from lmkit.encoding import prompt_ids
from lmkit.errors import TaskError
from lmkit.train.answering import through_torch

TASK = lk.get_task("mlm")


@pytest.fixture(scope="module")
def model():
    """Return a BERT with random weights, made large so that its answers differ clearly."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 32}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5}
    return BertForMaskedLM(BertConfig(vocab_size=17, pad_token_id=0, **size, **layers)).eval()


@pytest.fixture(scope="module")
def pipeline(model):
    from transformers import PreTrainedTokenizerFast, pipeline

    ours = wordpiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(ours.definition), **ours.special, cls_token="[CLS]"
    )
    return pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def filler(model):
    return through_torch(TASK, model, wordpiece())


def same(ours, theirs):
    """Compare fills, or lists of them; scores may differ by rounding."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(other, list):
            same(one, other)
        else:
            assert {**one, "score": None} == {**other, "score": None}
            assert one["score"] == pytest.approx(other["score"], rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "영화는 [MASK] 좋았다!",
        "[MASK]",
        "films [MASK], good",
        "[MASK] films [MASK]",
        "영화[MASK] 정말 [MASK][MASK]!",
        "zzz [MASK]",
    ],
)
def test_fills_are_those_of_the_pipeline(text, filler, pipeline):
    same(filler({"text": text}).value, pipeline(text))


@pytest.mark.parametrize("top_k", [1, 3, 17])
def test_there_are_as_many_as_asked_for(top_k, model, pipeline):
    task = TASK.evolve(decoder=FillMaskDecoder(top_k=top_k))
    found = through_torch(task, model, wordpiece())({"text": "a [MASK]"}).value

    assert len(found) == top_k
    same(found, pipeline("a [MASK]", top_k=top_k))


def test_there_are_no_more_than_there_are_tokens(model):
    task = TASK.evolve(decoder=FillMaskDecoder(top_k=100))

    assert len(through_torch(task, model, wordpiece())({"text": "a [MASK]"}).value) == 17


def test_a_control_token_typed_beside_a_mask_is_no_second_one(filler):
    value = filler({"text": "[CLS] [MASK] [PAD]"}).value

    assert isinstance(value[0], dict)


def test_the_answer_s_text_has_each_mask_s_best_token(filler):
    answer = filler({"text": "영화는 [MASK] [MASK]!"})
    best = [fills[0]["token"] for fills in answer.value]
    tokenizer = wordpiece()
    ids = prompt_ids(TASK, {"text": "영화는 [MASK] [MASK]!"}, tokenizer)
    ids[ids == tokenizer.mask_id] = best

    assert answer.token_ids == tuple(best)
    assert answer.text == tokenizer.decode(ids.tolist())
    assert answer.finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)


def test_scores_do_not_overflow():
    tokenizer = wordpiece()
    logits = np.zeros((3, 17), np.float32)
    logits[1, 5] = 1e4
    first, second = FillMaskDecoder(top_k=2).fill(np.array([2, 4, 3]), logits, tokenizer)

    assert (first["token"], first["score"], second["score"]) == (5, 1.0, 0.0)


def test_it_is_a_decoder_that_fills():
    assert isinstance(FillMaskDecoder(), Decoder)
    assert isinstance(FillMaskDecoder(), Filler)
    assert not isinstance(lk.TextDecoder(), Filler)


def test_it_refuses_to_give_none():
    with pytest.raises(TaskError, match="top_k is 0; expected a whole number of 1 or more"):
        FillMaskDecoder(top_k=0)
