"""Training speed: learned tokens a second of padded, length-grouped and packed batches, in turn.

    python tests/benchmarks/packing.py SHARED [--length 1024] [--batch 12] [--steps 6] [--rounds 5]

SHARED is the folder with `data/{alpaca_en,chat_messages_en,chat_messages_ko}.jsonl` and
`tokenizers/smollm2`. The model is SmolLM2's architecture with 4 layers of 256 and random weights. In
each round every side takes some optimizer steps (A B C A B C ...), on other batches each time; a
packed batch has as many sequences as hold the tokens of a padded one, as nearly as whole sequences can:
every step pays for the optimizer, so a batch of fewer tokens would look slower than it is. A side's
figure is the median over rounds. First the loss of some rows is checked to be the same packed and padded.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import lmkit as lk
from lmkit.collating import RowFeed
from lmkit.collating.grouping import grouped
from lmkit.collating.packing import PackedRows, packing_fill
from lmkit.encoding import Encoded, encode
from lmkit.family import Family
from lmkit.records import read
from lmkit.tokenizing import Tokenizer
from lmkit.train.batches import as_tensors
from lmkit.train.feeding import TrainingRows
from lmkit.train.packing import check_packing
from lmkit.train.scoring import batch_loss, forward

SETS = {"alpaca_en": "alpaca", "chat_messages_en": "chat", "chat_messages_ko": "chat"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.shared / "tokenizers" / "smollm2")
    for name, task_name in SETS.items():
        collator = lk.CausalCollator(max_length=options.length)
        task = lk.get_task(task_name).evolve(collator=collator)
        rows = encode(task, list(read(options.shared / "data" / f"{name}.jsonl")), tokenizer)
        measure(name, rows, tokenizer, options)


def measure(name: str, rows: Sequence[Encoded], tokenizer: Tokenizer, options: Any) -> None:
    """Print the figures of one set of rows."""
    model = small_model(tokenizer)
    check_packing(model, rows[:3])
    same_loss(model, rows[:16], options.length)
    lengths = np.array([len(row) for row in rows])
    n_sequences = max(1, round(options.batch * lengths.mean() / options.length))
    feeds = {
        "padded": (TrainingRows(RowFeed(rows), 0), options.batch),
        "grouped": (TrainingRows(RowFeed(rows), 0), options.batch),
        "packed": (TrainingRows(PackedRows(rows, options.length), 0), n_sequences),
    }
    orders = {side: order(side, *given) for side, given in feeds.items()}
    collate = lk.CausalCollator(max_length=options.length).collate
    rates: dict[str, list[float]] = {side: [] for side in feeds}
    places = dict.fromkeys(feeds, (0, 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for turn in range(options.rounds + 1):  # the first turn warms up
        for side, (feed, _) in feeds.items():
            learned, start = 0, time.perf_counter()
            for indices in itertools.islice(orders[side], options.steps):
                drawn = feed.__getitems__(indices)
                batch = as_tensors(collate(drawn, tokenizer.eos_id))
                forward(model, batch, Family.CAUSAL, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                learned += sum(row.n_learned for row in drawn)
                filled, all_ = places[side]
                places[side] = filled + sum(map(len, drawn)), all_ + batch["input_ids"].numel()
            if turn:
                rates[side].append(learned / (time.perf_counter() - start))
    fill = packing_fill(lengths, options.length)
    print(f"{name}: {len(rows)} rows of {lengths.mean():.0f} tokens; packed to {options.length}, "
          f"{fill:.1%} filled", flush=True)  # fmt: skip
    first = statistics.median(rates["padded"])
    for side, found in rates.items():
        each, (filled, all_) = statistics.median(found), places[side]
        print(f"  {side:<8} {each:7.0f} learned tokens/s   {each / first:5.2f} x   "
              f"padding {1 - filled / all_:6.1%}", flush=True)  # fmt: skip


def order(side: str, rows: TrainingRows, batch: int) -> Iterator[list[int]]:
    """Yield batches of indices for ever."""
    for epoch in itertools.count():
        rng = np.random.default_rng(epoch)
        rows.epoch = epoch
        found = rng.permutation(len(rows))
        if side == "grouped":
            found = grouped(rows.lengths, batch, rng)
        for start in range(0, len(found) - batch + 1, batch):
            yield found[start : start + batch].tolist()


def same_loss(model: Any, rows: Sequence[Encoded], length: int) -> None:
    """Check that rows have one loss, packed or padded."""
    epoch = PackedRows(rows, length).epoch(0)
    packed = epoch.draw_all(range(len(epoch)), np.zeros(len(epoch), dtype=np.uint64))
    collate = lk.CausalCollator(max_length=length).collate
    one, other = (batch_loss(model.eval(), as_tensors(collate(each, 0))) for each in (rows, packed))
    model.train()
    assert one.count == other.count
    assert abs(one.total / one.count - other.total / other.count) < 1e-4


def small_model(tokenizer: Tokenizer) -> Any:
    """Return SmolLM2's architecture, small enough for a CPU."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=256,
            intermediate_size=683,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


if __name__ == "__main__":
    main()
