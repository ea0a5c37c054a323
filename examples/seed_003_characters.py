"""Seed 003: a GPT that reads one character at a time, from random weights."""

import tempfile
from pathlib import Path

import lmkit as lk

SENTENCE = "안녕하세요 함께 인공지능을 공부하게 되어 반가워요. "
TEXT = [{"text": SENTENCE * 40}]
CHARACTERS = lk.get_task("char-lm").evolve(
    name="characters", collator=lk.BlockCollator(block_size=32)
)


def main() -> None:
    tokenizer = lk.train_tokenizer(kind="char", data=TEXT)
    ids = tokenizer.encode(SENTENCE)
    print(len(ids), "characters,", len(set(ids)), "unlike:", tokenizer.decode(ids))
    with tempfile.TemporaryDirectory() as folder:
        run = lk.train(
            CHARACTERS,
            model=lk.scratch("gpt2", n_layer=2, n_embd=64, n_head=2, n_positions=256),
            tokenizer=tokenizer,
            data=TEXT,
            eval_fraction=0.1,  # the tail of the text, which no window of the training part touches
            output=Path(folder, "run"),
            max_steps=150,
            per_device_train_batch_size=4,
            learning_rate=3e-3,
            use_cpu=True,
        )
        print({name: round(figure, 3) for name, figure in run.metrics.items() if "eval" in name})
        ask = lk.load(lk.export(run, output=Path(folder, "bundle")).path)
        print(
            ask({"prompt": "안녕"}, max_new_tokens=56, seed=0).text
        )  # drawn, as torch.multinomial does


if __name__ == "__main__":
    main()
