"""One model, two tasks: questions three parts, instructions one part, each with its own prompt.

An epoch holds exactly three quarters questions, whatever the sizes of the two data sets. Each record
is written by its own task, so the model learns both forms; each task has its own figures.
"""

import tempfile
from collections import Counter
from pathlib import Path

import lmkit as lk

KO_QA = lk.get_task("qa").evolve(name="ko-qa")
MIXTURE = lk.mix({KO_QA: 3, "alpaca": 1}, seed=0)
DATA = {
    "ko-qa": [
        {"prompt": "하늘은 무슨 색인가요?", "completion": "파란색이에요."},
        {"prompt": "눈은 무슨 색인가요?", "completion": "하얀색이에요."},
    ],
    "alpaca": [
        {"instruction": "Name the colour.", "input": "grass", "output": "green"},
        {"instruction": "Greet me in Korean.", "output": "안녕하세요!"},
    ]
    * 9,
}


def main() -> None:
    print(MIXTURE)
    everything = [row for rows in DATA.values() for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            MIXTURE,
            model=lk.scratch("gpt2", n_layer=2, n_embd=64, n_head=4, n_positions=384),
            tokenizer=lk.train_tokenizer(kind="bpe", vocab_size=400, data=everything),
            data=DATA,
            output=Path(folder) / "run",
            num_train_epochs=40,
            learning_rate=3e-3,
            save_strategy="no",
            use_cpu=True,
        )
        figures = lk.evaluate(run, data=DATA)
        for name in DATA:
            print(
                f"{name:<7} {len(DATA[name]):>2} records, perplexity {figures[f'{name}_perplexity']:.3f}"
            )

        for name, records in DATA.items():
            ask = lk.load(lk.export(run, task=name, output=Path(folder) / name))
            answers = Counter(ask(record, max_new_tokens=16).value for record in records)
            print(f"{name:<7} answers", dict(answers))


if __name__ == "__main__":
    main()
