"""Learn from data as it is: rename its columns, tidy its records, leave some out.

The data has columns `question` and `answers.text`, stray spaces, and records without an answer. The
task `qa` says `prompt` and `completion`. Nothing is rewritten on the disk: the task says how the
data is to be read, and the bundle's prompt is made from the data's own columns too.
"""

import tempfile
from pathlib import Path

import lmkit as lk

DATA = [
    {"question": "하늘은  무슨 색인가요? ", "answers.text": "파란색이에요."},
    {"question": " 사과는 무슨 색인가요?", "answers.text": "빨간색이에요."},
    {"question": "What colour is snow?", "answers.text": "It is white."},
    {"question": "대답이 없는 질문인가요?", "answers.text": ""},
] * 6


def tidy(record):
    return {column: " ".join(text.split()) for column, text in record.items()}


def answered(record):
    return bool(record["answers.text"])


def main() -> None:
    task = lk.get_task("qa").rename(question="prompt", **{"answers.text": "completion"})
    task = task.where(answered).map(tidy)
    print("columns:", ", ".join(task.columns), "| transforms:", *task.transforms)

    tokenizer = lk.train_tokenizer(kind="bpe", vocab_size=300, data=DATA)
    rows = lk.encode(task, DATA, tokenizer)
    print(f"{len(DATA)} records, {len(rows)} of them learned from, the first as")
    print(repr(tokenizer.decode(rows[0].input_ids.tolist())))

    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            task,
            model=lk.scratch("gpt2", n_layer=2, n_embd=32, n_head=4, n_positions=128),
            tokenizer=tokenizer,
            data=DATA,
            output=Path(folder) / "run",
            max_steps=60,
            learning_rate=1e-2,
            save_strategy="no",
            use_cpu=True,
        )
        # A plugin's functions go into the bundle by name; a script's stay behind.
        bundle = lk.export(run, task=task.evolve(transforms=()), output=Path(folder) / "bundle")
        ask = lk.load(bundle)
        for record in DATA[:3]:
            print(tidy(record)["question"], "->", ask(tidy(record)).value)


if __name__ == "__main__":
    main()
