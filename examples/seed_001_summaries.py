"""Seed 001: two articles and their summaries, through an encoder and a decoder."""

import tempfile
from pathlib import Path

import lmkit as lk

ROWS = [
    {
        "article": "The first human went into space and orbited the Earth on April 12, 1961.",
        "summary": "First human in space on April 12, 1961.",
    },
    {
        "article": "Apollo 11 was the first mission to land humans on the Moon.",
        "summary": "Apollo 11 first humans on Moon.",
    },
]
HEADLINES = lk.get_task("summarize").evolve(
    name="headlines",
    collator=lk.Seq2SeqCollator(max_source_length=128, max_target_length=32),
    generation=lk.Generation(max_new_tokens=32, num_beams=4, no_repeat_ngram_size=3),
)


def main() -> None:
    tiny = lk.scratch(
        "t5", d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            HEADLINES,
            model=tiny,
            tokenizer=lk.train_tokenizer(kind="unigram", vocab_size=400, data=ROWS),
            data=ROWS,
            output=Path(folder, "run"),
            max_steps=150,
            learning_rate=3e-3,
            use_cpu=True,
        )
        bundle = lk.export(run, output=Path(folder, "bundle"), data=ROWS)
        ask = lk.load(bundle.path)
        for row in ROWS:
            print(ask(row).value)
        figures = lk.evaluate(bundle, data=ROWS)
        print(
            {name: round(figures[name], 3) for name in ("perplexity", "rouge1", "rouge2", "rougeL")}
        )


if __name__ == "__main__":
    main()
