"""Seed 002: teach a model four Korean answers, and see what it says before and after.

python examples/seed_002_korean_qa.py                    # a tiny model from random weights
python examples/seed_002_korean_qa.py skt/kogpt2-base-v2 # the note's own model, from the hub
"""

import sys
import tempfile
from pathlib import Path

import lmkit as lk
from lmkit.answering import open_answerer

ROWS = [
    {"prompt": "안녕하세요?", "completion": " 안녕하세요! 무엇을 도와드릴까요?"},
    {"prompt": "당신의 이름은?", "completion": " 저는 토이 모델입니다."},
    {"prompt": "AI란 무엇인가요?", "completion": " 인공지능을 뜻합니다."},
    {
        "prompt": "재미있는 농담 말해줘.",
        "completion": " 닭이 길을 건넌 이유는 다른 쪽에 가기 위해서입니다!",
    },
]

# The end of each answer is learned, padding never is, and an answer is exactly the new tokens. The
# draw is the note's own. It forbids every pair of tokens that the question has too, so a greeting
# cannot be greeted back in the same words: hence the greedy answer beside it.
KO_QA = lk.Task(
    name="ko-qa",
    formatter=lk.context("질문: {prompt}\n답변:") + lk.target("{completion}"),
    decoder=lk.TextDecoder(),
    collator=lk.CausalCollator(max_length=64, pad_to_max_length=True),
    generation=lk.Generation(
        max_new_tokens=43,
        temperature=0.3,
        top_p=0.9,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        seed=0,
    ),
)


def main(hub_id: str | None = None) -> None:
    tiny = lk.scratch("gpt2", n_layer=2, n_embd=64, n_head=2, n_positions=64, initializer_range=0.1)
    tokenizer = None if hub_id else lk.train_tokenizer(kind="bpe", data=ROWS)
    how = {"model": hub_id or tiny, "tokenizer": tokenizer, "data": ROWS, "use_cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        before = lk.train(KO_QA, output=to / "before", max_steps=1, learning_rate=0.0, **how)
        first, rate = open_answerer(before), 3e-5 if hub_id else 1e-2
        after = lk.train(KO_QA, output=to / "after", max_steps=40, learning_rate=rate, **how)
        ask = lk.load(lk.export(after, output=to / "bundle", data=ROWS).path)  # without torch
        for row in ROWS:
            print(f"질문: {row['prompt']}\n  전: {first(row).value}\n  후: {ask(row).value}")
            print(f"  후 (greedy): {ask(row, temperature=0, no_repeat_ngram_size=0).value}")


if __name__ == "__main__":
    main(*sys.argv[1:])
