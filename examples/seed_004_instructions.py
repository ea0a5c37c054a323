"""Seed 004: instructions in Alpaca's format, key words weighed, through a LoRA adapter."""

import tempfile
from pathlib import Path

import lmkit as lk

ROWS = [
    {"instruction": "Name the capital.", "input": "France", "output": "Paris"},
    {"instruction": "Name the capital.", "input": "대한민국", "output": "서울"},
    {"instruction": "Who wins the case?", "input": "Roe v. Wade", "output": "Jane Roe wins."},
    {"instruction": "Say hello.", "input": "", "output": "Hello! How can I help?"},
]
# Rows in which a key token occurs count for more; it is a word that the tokenizer has as one token.
# The draw is the note's: temperature 0.1, top_p 0.75 and a repetition penalty of 1.1.
ADVICE = lk.get_task("alpaca").evolve(
    name="advice",
    collator=lk.CausalCollator(max_length=160),
    loss=lk.keytoken_weighted(tokens=[" wins"], alpha=1.0),
    generation=lk.Generation(
        max_new_tokens=24, temperature=0.1, top_p=0.75, repetition_penalty=1.1, seed=0
    ),
)


def main() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    tiny = lk.scratch("llama", **sizes, num_attention_heads=4, max_position_embeddings=192)
    tokenizer = lk.train_tokenizer(kind="bpe", data=ROWS, task=ADVICE)
    how = {"data": ROWS, "use_cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        base = lk.train(ADVICE, model=tiny, tokenizer=tokenizer, output=to / "base",
                        max_steps=25, learning_rate=5e-3, **how)  # fmt: skip
        run = lk.train(ADVICE, model=base.path, adapter=lk.lora(r=8, lora_alpha=16),
                       output=to / "run", max_steps=60, learning_rate=1e-2, **how)  # fmt: skip
        saved = sorted(path.name for path in run.path.iterdir() if "safetensors" in path.name)
        print("saved:", *saved, f"({run.parameters['trainable']:,} parameters)")
        ask = lk.load(lk.export(run, output=to / "bundle", data=ROWS).path)  # merged
        for row in ROWS:
            asked = {"instruction": row["instruction"], "input": row["input"]}
            print(f"{row['instruction']} {row['input']} -> {ask(asked).value}")


if __name__ == "__main__":
    main()
