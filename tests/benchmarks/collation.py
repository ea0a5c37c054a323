"""Collation speed: lmkit's batches against those of transformers and TRL, in turn, in one process.

    python tests/benchmarks/collation.py DATA [--rounds 7] [--batches 20]

DATA is the folder `shared`, with `data/alpaca_en.jsonl` and `tokenizers/{smollm2,bert-base-uncased}`.
Each round times one and then the other (A B A B ...) over the same batches of 32 rows; medians and
their ratio are printed. Ours is all that a step pays: rows are drawn, hidden or packed, collated, and
made tensors; theirs is the collator's call on rows that are lists, as datasets gives them. Both give
the same arrays, which is checked first; of hidden tokens, which are random, the shares are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as TrlCollator

import lmkit as lk
from lmkit.collating import RowFeed
from lmkit.collating.masked import MaskedCollator
from lmkit.collating.packing import PackedRows
from lmkit.encoding import IGNORE, Encoded, encode
from lmkit.family import Family
from lmkit.records import read
from lmkit.tokenizing import Tokenizer
from lmkit.train.batches import as_tensors
from lmkit.train.feeding import TrainingRows
from lmkit.train.packing import flat_batch

BATCH = 32
Batches = Sequence[Sequence[int]]
Call = Callable[[Any], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    measured = (options.rounds, options.batches)
    records = list(read(options.shared / "data" / "alpaca_en.jsonl"))[: BATCH * options.batches]
    smollm2 = options.shared / "tokenizers" / "smollm2"
    rows = encode(lk.get_task("alpaca"), records, smollm2)
    causal(rows, smollm2, *measured)
    packed(rows, *measured)
    seq2seq(rows, smollm2, *measured)
    bert = options.shared / "tokenizers" / "bert-base-uncased"
    for length in (24, 128):
        for whole_word in (False, True):
            masked(records, bert, length, whole_word, *measured)


def causal(rows: Sequence[Encoded], folder: Path, rounds: int, n_batches: int) -> None:
    hf = transformers.AutoTokenizer.from_pretrained(folder)
    hf.pad_token = hf.eos_token
    tokenizer = Tokenizer.load(folder)
    feed, collate = TrainingRows(RowFeed(rows), 0), lk.CausalCollator().collate
    ours = lambda batch: as_tensors(collate(feed.__getitems__(batch), tokenizer.eos_id))  # noqa: E731
    lists = [
        {
            "input_ids": r.input_ids.tolist(),
            "labels": r.labels.tolist(),
            "attention_mask": [1] * len(r),
        }
        for r in rows
    ]
    peers = {
        "DataCollatorForSeq2Seq": transformers.DataCollatorForSeq2Seq(hf),
        "TRL": TrlCollator(pad_token_id=tokenizer.eos_id),
    }
    compare("causal", ours, peers, lists, rounds, n_batches, equal)


def packed(rows: Sequence[Encoded], rounds: int, n_batches: int) -> None:
    """Compare sequences of whole rows without padding, as flash attention reads them."""
    feed = TrainingRows(PackedRows(rows, 2048), 0)
    epoch = PackedRows(rows, 2048).epoch(0, 0)
    each = max(1, len(epoch) // n_batches)
    batches = np.arange(len(epoch))[: each * n_batches].reshape(n_batches, -1).tolist()
    ours = lambda batch: as_tensors(flat_batch(feed.__getitems__(batch)))  # noqa: E731
    parts = {}
    for index in range(len(epoch)):
        one = epoch.draw(index, np.random.default_rng(0))
        cuts = np.cumsum(one.lengths)[:-1]
        parts[index] = [
            {"input_ids": ids.tolist(), "labels": labels.tolist()}
            for ids, labels in zip(
                np.split(one.input_ids, cuts), np.split(one.labels, cuts), strict=True
            )
        ]
    flat = transformers.DataCollatorWithFlattening(return_tensors="pt")
    peer = lambda batch: flat([row for index in batch for row in parts[index]])  # noqa: E731
    compare("packed", ours, {"DataCollatorWithFlattening": peer}, None, rounds, batches, equal)


def seq2seq(rows: Sequence[Encoded], folder: Path, rounds: int, n_batches: int) -> None:
    hf = transformers.AutoTokenizer.from_pretrained(folder)
    hf.pad_token = hf.eos_token
    tokenizer = Tokenizer.load(folder)
    pairs = []
    for row in rows:
        learned = row.labels != IGNORE
        pairs.append(Encoded(row.input_ids[~learned], row.labels[learned], family=Family.SEQ2SEQ))
    feed, collate = TrainingRows(RowFeed(pairs), 0), lk.Seq2SeqCollator().collate
    ours = lambda batch: as_tensors(collate(feed.__getitems__(batch), tokenizer.eos_id))  # noqa: E731
    lists = [
        {
            "input_ids": r.input_ids.tolist(),
            "labels": r.labels.tolist(),
            "attention_mask": [1] * len(r),
        }
        for r in pairs
    ]
    peers = {"DataCollatorForSeq2Seq": transformers.DataCollatorForSeq2Seq(hf)}
    compare("seq2seq", ours, peers, lists, rounds, n_batches, equal)


def masked(
    records: Sequence[Any], folder: Path, length: int, whole_word: bool, rounds: int, n_batches: int
) -> None:
    hf = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    collator = MaskedCollator(max_length=length, whole_word=whole_word)
    task = lk.get_task("mlm").evolve(collator=collator)
    texts = [" ".join([r["instruction"], r["output"]] * 8) for r in records]
    rows = encode(task, [{"text": text} for text in texts], tokenizer)
    feed = TrainingRows(collator.feed(rows, tokenizer), 0)
    ours = lambda batch: as_tensors(collator.collate(feed.__getitems__(batch), tokenizer.pad_id))  # noqa: E731
    wanted = {"return_special_tokens_mask": True, "return_offsets_mapping": whole_word}
    lists = [dict(hf(text, truncation=True, max_length=length, **wanted)) for text in texts]
    peer = transformers.DataCollatorForLanguageModeling(hf, whole_word_mask=whole_word)
    name = f"masked, {length} tokens" + (", whole words" if whole_word else "")
    peers = {"DataCollatorForLanguageModeling": peer}
    compare(name, ours, peers, lists, rounds, n_batches, alike)


def equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Check that two batches are the same; a collator may leave out a mask of ones."""
    for name in ours.keys() & theirs.keys():
        assert torch.equal(ours[name], torch.as_tensor(theirs[name])), name
    assert {"input_ids", "labels"} <= ours.keys() & theirs.keys()


def alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Check that two batches are of one shape, and that about as much is hidden in both."""
    assert ours["input_ids"].shape == theirs["input_ids"].shape
    shares = [float((batch["labels"] != IGNORE).float().mean()) for batch in (ours, theirs)]
    assert abs(shares[0] - shares[1]) < 0.1, shares


def compare(
    name: str,
    ours: Call,
    peers: dict[str, Call],
    lists: Sequence[dict[str, Any]] | None,
    rounds: int,
    batches: int | Batches,
    check: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    """Print how long a batch takes, ours and theirs."""
    if isinstance(batches, int):
        order = np.random.default_rng(0).permutation(BATCH * batches)
        batches = order.reshape(batches, BATCH).tolist()
    for peer_name, peer in peers.items():
        theirs = [
            batch if lists is None else [lists[index] for index in batch] for batch in batches
        ]
        for one, other in zip(batches, theirs, strict=True):
            check(ours(one), peer([dict(row) for row in other] if lists else other))
        found: dict[str, list[float]] = {"lmkit": [], peer_name: []}
        for _ in range(rounds):
            for side, call, given in (("lmkit", ours, batches), (peer_name, peer, theirs)):
                copied = (
                    [[dict(row) for row in one] for one in given]
                    if lists and call is peer
                    else given
                )
                start = time.perf_counter()
                for batch in copied:
                    call(batch)
                found[side].append((time.perf_counter() - start) / len(batches))
        a, b = (statistics.median(times) for times in found.values())
        print(f"{name:<32} {a * 1e6:7.0f} us   {peer_name:<32} {b * 1e6:7.0f} us   {b / a:6.1f} x")


if __name__ == "__main__":
    main()
