"""Train a toy on each of the three tasks and export it, in the folder that is named."""

import json
import sys
from pathlib import Path

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
TOKENIZERS = {"parts-answers": "bpe", "parts-titles": "unigram", "parts-gaps": "wordpiece"}

ROWS = [
    {
        "facts": [f"{name}의 색은 {color}이다", f"{name} is {color}"],
        "question": f"{name}?",
        "answer": f" {color}\n{name} ",
        "text": f"{name}의 색은 {color}이다. The colour of {name} is {color}.",
        "title": f"{color} {name}",
    }
    for name, color in zip(
        ["사과", "바나나", "하늘", "눈", "grass", "coal", "rose", "sea"],
        ["빨강", "노랑", "파랑", "하양", "green", "black", "red", "blue"],
        strict=True,
    )
]

folder = Path(sys.argv[1])
data = folder / "data.jsonl"
data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")
for name, model in SIZES.items():
    tokenizer = train_tokenizer(
        kind=TOKENIZERS[name],
        vocab_size=300,
        data=[{"text": row[column]} for row in ROWS for column in ("text", "question", "title")],
    )
    run = lk.train(
        name,
        model=model,
        tokenizer=tokenizer,
        data=str(data),
        output=folder / f"{name}-run",
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
    )
    assert any("task_loss" in key or key == "train_loss" for key in run.metrics), run.metrics
    export(run, output=folder / name, data=str(data), timed=False)
    print(name, dict(run.metrics), flush=True)
