"""Seed 001: hide words, guess them back, and fill a blank with the three likeliest."""

import tempfile
from pathlib import Path

import lmkit as lk

# A column that holds a list of sentences is joined; its name needs no Python to be read.
ROWS = [
    {
        "answers.text": [
            "우리 은하와 가장 가까운 은하가 있다.",
            "그 은하 이름은 안드로메다 은하이다.",
        ]
    },
    {"answers.text": ["어제 엄마한테 혼났다.", "다음에는 나쁜짓을 안해야겠다."]},
    {"answers.text": ["The Milky Way is a spiral galaxy."]},
    {"answers.text": ["나는 오늘 아침에 밥을 먹었다."]},
]
HIDDEN_WORDS = (
    lk.get_task("mlm")
    .rename(**{"answers.text": "text"})
    .evolve(
        name="hidden-words",
        collator=lk.MaskedCollator(max_length=64, mlm_probability=0.15),
        decoder=lk.FillMaskDecoder(top_k=3),
    )
)


def main() -> None:
    tiny = lk.scratch(
        "bert",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            HIDDEN_WORDS,
            model=tiny,
            tokenizer=lk.train_tokenizer(kind="wordpiece", vocab_size=300, data=ROWS),
            data=ROWS,
            output=Path(folder, "run"),
            max_steps=300,
            learning_rate=3e-3,
            use_cpu=True,
        )
        print(f"perplexity: {lk.evaluate(run, data=ROWS)['perplexity']:.2f}")
        ask = lk.load(lk.export(run, output=Path(folder, "bundle"), data=ROWS).path)
        for text in ("The Milky Way is a [MASK] galaxy.", "나는 오늘 아침에 [MASK] 먹었다."):
            for fill in ask({"answers.text": text}).value:
                print(f"{fill['score']:.3f}  {fill['token_str']}  {fill['sequence']}")


if __name__ == "__main__":
    main()
