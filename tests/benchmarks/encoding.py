"""Encoding speed: lmkit's rows against TRL's dataset preparation, in turn, in one process.

    python tests/benchmarks/encoding.py SHARED [--rounds 5] [--rows N] [--parallel] [--json]

SHARED is the folder `shared`, with `data/{alpaca_en,chat_messages_en}.jsonl` and `tokenizers/`. Each
round times one and then the other (A B A B ...) on the same records; medians and their ratio are
printed. Ours starts each round with a tokenizer that has read nothing; `again` is the same one a second
time. TRL's `_prepare_dataset` is given all that it needs in memory, and neither cuts nor packs. Both
write the same ids and labels, which is compared first: a row may differ only where a token of TRL's
goes over the place where learning starts. The library's own time is that of one `encode_batch` of the
same texts. `--parallel` lets the library use all cores, in both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmkit as lk
from lmkit.encoding import Encoded, encode_rows
from lmkit.records import read
from lmkit.tokenizing import Tokenizer
from lmkit.vocabulary import parse_tokenizer

LONG = 1 << 20  # tokens; no row is cut
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="so many of each file; all without")
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = str(options.parallel).lower()
    tokenizers = options.shared / "tokenizers"
    alpaca = list(read(options.shared / "data" / "alpaca_en.jsonl"))[: options.rows]
    chat = list(read(options.shared / "data" / "chat_messages_en.jsonl"))[: options.rows]
    task = lk.get_task("alpaca").evolve(collator=lk.CausalCollator(max_length=LONG))
    talk = lk.get_task("chat").evolve(
        formatter=lk.Chat(template=MARKED), collator=lk.CausalCollator(max_length=LONG)
    )
    found = {}
    for name in ("gpt2", "smollm2", "qwen2"):
        folder = tokenizers / name
        peer = trl_preparation(folder, parted(task, alpaca))
        found[f"alpaca, {name}"] = compared(task, alpaca, folder, options.rounds, peer)
    peer = trl_preparation(tokenizers / "smollm2", [dict(record) for record in chat], marked=True)
    found["chat, smollm2"] = compared(talk, chat, tokenizers / "smollm2", options.rounds, peer)
    for name in ("bert-base-uncased", "koelectra-wordpiece", "t5", "char"):
        source: Any = tokenizers / name
        if name == "char":
            source = parse_tokenizer("char", options.shared / "data" / "alpaca_en.jsonl")
        found[f"alpaca, {name}"] = compared(task, alpaca, source, options.rounds, None)
    if options.json:
        print(json.dumps({"parallel": options.parallel, "rounds": options.rounds, "found": found}))
        return
    print(f"rows/s, medians of {options.rounds} rounds, parallel: {options.parallel}")
    titles = ("ours", "again", "trl", "library", "ratio", "unlike rows")
    print(" " * 26 + "".join(f"{title:>13}" for title in titles))
    for name, row in found.items():
        cells = [f"{row[title]:13,.1f}" if title in row else " " * 13 for title in titles]
        print(f"{name:<26}{''.join(cells)}")


def compared(
    task: Any,
    records: Sequence[Any],
    source: Any,
    rounds: int,
    peer: Callable[[], Any] | None,
) -> dict[str, float]:
    """Return rows/s of both, of the library alone, the ratio, and how many rows are unlike."""
    dialect = fresh(source).dialect
    texts = ["".join(s.text for s in task.formatter.segments(r, dialect)) for r in records]
    library = fresh(source)._opening
    rates: dict[str, list[float]] = {"ours": [], "again": [], "library": []}
    rows: list[Encoded] = list(encode_rows(task, records, fresh(source)))
    found: dict[str, float] = {}
    if peer is not None:
        rates["trl"] = []
        found["unlike rows"] = unlike(rows, peer())
    for _ in range(rounds):
        tokenizer = fresh(source)
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda tokenizer=tokenizer: list(encode_rows(task, records, tokenizer)),
            "again": lambda tokenizer=tokenizer: list(encode_rows(task, records, tokenizer)),
            "library": lambda: library.encode_batch(texts, add_special_tokens=False),
        }
        if peer is not None:
            sides["trl"] = peer
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            rates[name].append(len(records) / (time.perf_counter() - start))
    found |= {name: statistics.median(each) for name, each in rates.items()}
    if peer is not None:
        found["ratio"] = found["ours"] / found["trl"]
    return found


def fresh(source: Any) -> Tokenizer:
    """Return a tokenizer that has read nothing; BERT's ends answers with [SEP]."""
    if isinstance(source, Tokenizer):
        return source.with_template(source.chat_template or MARKED)
    tokenizer = Tokenizer.load(source)
    return tokenizer if tokenizer.eos_id else tokenizer.with_special("eos_token", "[SEP]")


def parted(task: Any, records: Sequence[Any]) -> list[dict[str, str]]:
    """Return each record's text as TRL takes it."""
    rows = []
    for record in records:
        segments = task.formatter.segments(record)
        prompt = "".join(part.text for part in segments if not part.learn)
        rows.append({"prompt": prompt, "completion": "".join(s.text for s in segments if s.learn)})
    return rows


def trl_preparation(
    folder: Path, rows: list[dict[str, Any]], *, marked: bool = False
) -> Callable[[], Any]:
    """Return what prepares a data set as SFTTrainer does; `marked` learns what the template marks."""
    import datasets
    import transformers
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if marked:
        tokenizer.chat_template = MARKED
    args = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=None,
        assistant_only_loss=marked,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = SimpleNamespace(
        _tokenizer=tokenizer, chat_template=None, completion_only_loss=not marked
    )
    prepare: Any = SFTTrainer._prepare_dataset

    def prepared() -> Any:
        dataset = datasets.Dataset.from_list(rows)
        return prepare(trainer, dataset, tokenizer, args, False, None, "train")

    return prepared


def unlike(rows: Sequence[Encoded], theirs: Any) -> int:
    """Return how many rows have other ids or labels."""
    pairs = zip(rows, theirs["input_ids"], theirs["labels"], strict=True)
    return sum(
        row.input_ids.tolist() != list(ids) or row.labels.tolist() != list(labels)
        for row, ids, labels in pairs
    )


if __name__ == "__main__":
    main()
