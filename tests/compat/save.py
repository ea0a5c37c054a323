"""Save small runs and bundles with whatever lmkit Python finds, for later versions to read.

    git worktree add --detach /tmp/then COMMIT
    PYTHONPATH=/tmp/then:/tmp/then/plugins python tests/compat/save.py tests/compat/saved/NAME [PRECISIONS]

writes NAME-causal.zip and so on, each a run's folder, the bundle of it, and `answers.json`: what that
lmkit answered with them. A kind that it cannot save yet is left out, and said so. What is there already
stays: a fixture says what somebody's disk holds, so it is never made anew.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmkit as lk

QUESTIONS = {
    "안녕하세요?": "네, 안녕하세요!",
    "오늘 날씨 어때요?": "맑아요.",
    "What is 2+2?": "It is 4.",
    "Who are you?": "A small model.",
}
ROWS = [{"prompt": prompt, "completion": text} for prompt, text in QUESTIONS.items()] * 8
CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in QUESTIONS.items()
] * 8
ARTICLES = [{"article": q, "summary": a} for q, a in QUESTIONS.items()] * 8
TEXTS = [{"text": f"{q} {a}"} for q, a in QUESTIONS.items()] * 8
LABELLED = [{"text": q, "answer": "Yes" if q.isascii() else "No"} for q in QUESTIONS] * 8
LETTERS = "".join(map(chr, range(32, 127))) + "질문답변분류\n"
LLAMA = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
}
T5 = {"d_model": 16, "d_ff": 24, "num_layers": 1, "num_heads": 2, "d_kv": 8}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 96,
}


def causal() -> dict[str, Any]:
    """Return what `train` is given for a plain question and its answer."""
    return {"task": "qa", "model": lk.scratch("llama", **LLAMA), "data": ROWS}


def chat() -> dict[str, Any]:
    """Return what `train` is given for conversations."""
    return {"task": "chat", "model": lk.scratch("llama", **LLAMA), "data": CHATS}


def seq2seq() -> dict[str, Any]:
    """Return what `train` is given for an encoder-decoder."""
    return {"task": "summarize", "model": lk.scratch("t5", **T5), "data": ARTICLES}


def masked() -> dict[str, Any]:
    """Return what `train` is given for a masked model."""
    return {"task": "mlm", "model": lk.scratch("bert", **BERT), "data": TEXTS}


def labels() -> dict[str, Any]:
    """Return what `train` is given for one label of several."""
    return {"task": "classify", "model": lk.scratch("llama", **LLAMA), "data": LABELLED}


def haiku() -> dict[str, Any]:
    """Return what `train` is given for a third party's task; that plugin must be installed."""
    poems = [{"subject": q, "haiku": f"{a}\n{q}\n{a}"} for q, a in QUESTIONS.items()] * 8
    return {"task": "haiku", "model": lk.scratch("llama", **LLAMA), "data": poems}


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "causal": causal,
    "chat": chat,
    "labels": labels,
    "seq2seq": seq2seq,
    "masked": masked,
    "haiku": haiku,
}


def asked(kind: str, bundle: Any) -> list[dict[str, Any]]:
    """Return records, and what the bundle answers to them greedily."""
    records: list[dict[str, Any]]
    if kind == "masked":
        mask = json.loads((bundle / "tokenizer_config.json").read_text("utf-8"))["mask_token"]
        text = mask if isinstance(mask, str) else mask["content"]
        records = [{"text": q.replace("?", text)} for q in QUESTIONS]
    else:
        column = {
            "causal": "prompt",
            "seq2seq": "article",
            "labels": "text",
            "haiku": "subject",
        }.get(kind)
        records = [
            {column: q} if column else {"messages": [{"role": "user", "content": q}]}
            for q in QUESTIONS
        ]
    ask = lk.load(bundle)
    free = kind in ("causal", "chat", "seq2seq", "haiku")
    options = {"max_new_tokens": 24, "temperature": 0} if free else {}
    answers = [ask(record, **options) for record in records]
    return [
        {"record": record, "value": answer.value, "text": answer.text}
        for record, answer in zip(records, answers, strict=True)
    ]


def save(kind: str, archive: Path, precisions: str) -> None:
    """Train, export, ask, and put it all into one archive."""
    made = KINDS[kind]()
    data = made["data"]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        with (here / "rows.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in data)
        if kind == "masked":
            tokenizer = lk.train_tokenizer(kind="wordpiece", vocab_size=150, data=TEXTS)
        else:
            tokenizer = lk.train_tokenizer(kind="char", data=[{"text": LETTERS}, *TEXTS])
        run = lk.train(
            made["task"],
            model=made["model"],
            tokenizer=tokenizer,
            data=data,
            output=here / "run",
            max_steps=60,
            learning_rate=1e-2,
            save_strategy="no",
            use_cpu=True,
            seed=7,
        )
        lk.export(run, output=here / "bundle", precision=precisions, data=data)
        answers = json.dumps(asked(kind, here / "bundle"), ensure_ascii=False, indent=2)
        (here / "answers.json").write_text(answers, "utf-8")
        for spare in [here / "rows.jsonl", *(here / "run").glob("report.html")]:
            spare.unlink()
        for spare in (here / "run").glob("checkpoint-*"):
            shutil.rmtree(spare)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
            for path in sorted(here.rglob("*")):
                if path.is_file():
                    zipped.write(path, path.relative_to(here))


if __name__ == "__main__":
    for name in KINDS:
        target = Path(f"{sys.argv[1]}-{name}.zip")
        if target.exists():
            print(f"{target} is there already")
            continue
        try:
            save(name, target, sys.argv[2] if len(sys.argv) > 2 else "fp32")
        except lk.LmkitError as error:
            print(f"{name} cannot be saved: {error}")
        else:
            print(f"{target}: {target.stat().st_size:,} bytes")
