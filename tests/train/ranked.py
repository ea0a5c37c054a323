"""Trainings that several processes and a single one must do alike; a script for torchrun.

`torchrun --nproc-per-node 2 ranked.py FOLDER` writes a run of each case into the folder. Dropout is
off: every process draws its own.
"""

import json
import shutil
import sys
from pathlib import Path

from encoderdecoders import RECORDS, small_tokenizer
from tiny import ROWS, TINY, TINY_BERT
from toys import wordpiece

import lmkit as lk
from lmkit.train import ranks

PLAIN = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GPT2 = lk.scratch("gpt2", **{**TINY, **PLAIN, "n_positions": 256})
BERT = lk.scratch("bert", **TINY_BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
T5 = lk.scratch("t5", num_layers=1, d_model=16, num_heads=2, d_kv=8, d_ff=16, dropout_rate=0.0)
QA = lk.get_task("qa")
ALPACA = [{"instruction": f"{n}을 세어라", "output": "하나 둘 셋"} for n in range(5)]
MIXTURE = lk.mix({"qa": 2, "alpaca": 1}, seed=3)
FILMS = [{"text": text} for text in ("영화는 정말 좋았다!", "a good film, good films")] * 5
# 13 rows, which no number of batches shares out.
PEOPLE = [*ROWS, {"prompt": "13은 무엇인가요?", "completion": "수입니다."}]


def cases():
    """Return each training's task and options, but for the rows in a batch."""
    tokenizer = lk.train_tokenizer(
        kind="char", unknown="token", data={"qa": PEOPLE, "alpaca": ALPACA}, task=MIXTURE
    )
    usual = {
        "model": GPT2,
        "tokenizer": tokenizer,
        "data": PEOPLE,
        "eval_data": PEOPLE[:5],
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    pack = lk.CausalCollator(max_length=96, pack=True)
    keys = lk.keytoken_weighted(["수", "좋"], alpha=2.0)
    saving = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    return {
        "plain": (QA, {**usual, **saving, "save_total_limit": 3, "load_best_model_at_end": True}),
        "accumulated": (QA, {**usual, "gradient_accumulation_steps": 2}),
        "packed": (QA.evolve(collator=pack), usual),
        "weighted": (QA.evolve(loss=keys), usual),
        "packed and weighted": (QA.evolve(collator=pack, loss=keys), usual),
        "mixed": (
            MIXTURE,
            {
                **usual,
                "data": {"qa": PEOPLE, "alpaca": ALPACA},
                "eval_data": {"qa": PEOPLE[:5], "alpaca": ALPACA[:1]},
            },
        ),
        "masked": (
            lk.get_task("mlm"),
            {
                **usual,
                "model": BERT,
                "tokenizer": wordpiece(),
                "data": FILMS,
                "eval_data": FILMS[:3],
            },
        ),
        "pairs": (
            lk.get_task("summarize"),
            {
                **usual,
                "model": T5,
                "tokenizer": small_tokenizer(),
                "data": RECORDS,
                "eval_data": RECORDS[:3],
            },
        ),
        "sharded": (QA, {**usual, **saving, "save_total_limit": 3}),
    }


def interrupted(run, copy):
    """Copy a run as it would be if it had been killed between its last checkpoint and the end."""
    shutil.copytree(run, copy)
    about = json.loads((copy / "run.json").read_text("utf-8"))
    (copy / "run.json").write_text(json.dumps({**about, "finished": False}), "utf-8")
    (copy / "model.safetensors").unlink()
    last = max(copy.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(last)


def resumed(name, folder, task, options):
    """Train a case, interrupt a copy of it and go on with that."""
    lk.train(task, output=folder / name, **options)
    copy = folder / f"{name}, resumed"
    ranks.first(lambda: interrupted(folder / name, copy))
    lk.train(task, output=copy, resume=True, **options)


def main(folder):
    """Train every case in this process group."""
    folder = Path(folder)
    several = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 1}
    for name, (task, options) in cases().items():
        if name in ("plain", "sharded"):
            fsdp = {"fsdp": True} if name == "sharded" else {}
            resumed(name, folder, task, {**options, **several, **fsdp})
        else:
            lk.train(task, output=folder / name, **options, **several)


if __name__ == "__main__":
    main(sys.argv[1])
