"""Tell good film reviews from bad ones: the built-in task `classify` in Korean, with its own labels.

Run it with `python examples/classify_reviews.py`, or from the command line on a file of your own:

    lmkit train examples/classify_reviews.py:REVIEWS --model scratch:gpt2,n_layer=2,n_embd=128,n_head=4 \
        --tokenizer bpe:4000 --data reviews.jsonl --output runs/reviews
    lmkit evaluate runs/reviews --data test.jsonl
    lmkit generate runs/reviews --set text='또 보고 싶어요'
"""

import sys
import tempfile
from pathlib import Path

import lmkit as lk

REVIEWS = lk.get_task("classify").evolve(
    name="reviews",
    description="Korean film reviews: 긍정 or 부정.",
    formatter=lk.context("리뷰: {text}\n감정:") + lk.target(" {label_text}"),
    decoder=lk.LabelDecoder(labels=("긍정", "부정")),
)
# A few rows in the manner of the Naver sentiment movie corpus (NSMC); more of them teach more.
GOOD = [
    "정말 재미있어요",
    "또 보고 싶은 영화",
    "배우들 연기가 최고",
    "감동적인 이야기",
    "강력 추천합니다",
]
BAD = ["너무 지루해요", "돈이 아까운 영화", "연기가 최악", "내용이 하나도 없다", "절대 보지 마세요"]
ROWS = [{"text": text, "label_text": "긍정"} for text in GOOD]
ROWS += [{"text": text, "label_text": "부정"} for text in BAD]


def main(output: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    run = lk.train(
        REVIEWS,
        model=lk.scratch("llama", num_hidden_layers=2, **sizes),
        tokenizer=lk.train_tokenizer(kind="bpe", vocab_size=320, data=ROWS),
        data=ROWS,
        output=output / "run",
        max_steps=60,
        learning_rate=1e-2,
        save_strategy="no",
        use_cpu=True,
    )
    bundle = lk.export(run, output=output / "bundle", data=ROWS)
    print(lk.evaluate(bundle, data=ROWS))
    ask = lk.load(bundle.path)  # no torch from here on
    for answer, row in zip(ask.batch(ROWS), ROWS, strict=True):
        shares = ", ".join(f"{label} {share:.2f}" for label, share in answer.probabilities.items())
        print(f"{answer.value}  ({shares})  {row['text']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
