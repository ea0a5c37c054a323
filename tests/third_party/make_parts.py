"""Train a toy on each task of lmkit-parts, export it, and write down what it answers and measures.

`check_parts.py` runs this where torch is, in a folder of its own: data.jsonl, NAME-run and NAME for
each task, and said.json.
"""

import json

import lmkit as lk
from lmkit.export.bundle import export
from lmkit.vocabulary import train_tokenizer

SIZES = {
    "parts-answers": lk.scratch("gpt2", n_layer=1, n_embd=32, n_head=2, n_positions=96),
    "parts-titles": lk.scratch(
        "t5", d_model=32, d_ff=64, d_kv=16, num_layers=1, num_decoder_layers=1, num_heads=2
    ),
    "parts-gaps": lk.scratch(
        "bert",
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    ),
}
KINDS = {"parts-answers": "bpe", "parts-titles": "unigram", "parts-gaps": "wordpiece"}
COLOURS = {
    "사과": "빨강",
    "하늘": "파랑",
    "눈": "하양",
    "grass": "green",
    "coal": "black",
    "sea": "blue",
}
ROWS = [
    {
        "facts": [f"{name}의 색은 {colour}이다", f"{name} is {colour}"],
        "question": f"{name}?",
        "answer": f" {colour}\n{name} ",
        "text": f"{name}의 색은 {colour}이다. The colour of {name} is {colour}.",
        "title": f"{colour} {name}",
    }
    for name, colour in COLOURS.items()
]
ASKED = {**ROWS[0], "text": "사과의 색은 [MASK] 이다"}


def made(name, tokenizer):
    """Train and export a task; return what its run and its bundle say."""
    task = lk.get_task(name)
    task = task.evolve(generation=lk.Generation(max_new_tokens=24))
    run = lk.train(
        task,
        model=SIZES[name],
        tokenizer=tokenizer,
        data="data.jsonl",
        output=f"{name}-run",
        max_steps=100,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        report_to="none",
    )
    export(run, output=name, data="data.jsonl", timed=False)
    return {
        "run": lk.evaluate(run, data="data.jsonl"),
        "bundle": lk.evaluate(name, data="data.jsonl"),
        "value": lk.load(name)(ASKED).value,
    }


def main():
    with open("data.jsonl", "w", encoding="utf-8") as data:
        data.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    texts = [{"text": row[column]} for row in ROWS for column in ("text", "question", "title")]
    said = {
        name: made(name, train_tokenizer(kind=kind, vocab_size=300, data=texts))
        for name, kind in KINDS.items()
    }
    # Only its loss, its metric and its transform are a stranger's.
    plain = lk.get_task("parts-answers").evolve(
        name="parts-plain",
        formatter=lk.context("{question}\n") + lk.target("{answer}"),
        collator=lk.CausalCollator(max_length=96),
        decoder=lk.TextDecoder(),
        generation=lk.Generation(max_new_tokens=24),
    )
    export("parts-answers-run", task=plain, output="parts-plain", timed=False)
    said["parts-plain"] = {"value": lk.load("parts-plain")(ASKED).value}
    with open("said.json", "w", encoding="utf-8") as file:
        json.dump(said, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
