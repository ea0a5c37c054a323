"""An encoder-decoder made by hand, without torch: the smallest two graphs that keep the contract.

The encoder is an embedding and two projections; the decoder has one layer that attends to its own
tokens and to the source. The numpy twin computes a whole target at once.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lmkit as lk
from lmkit.chat.rendering import now
from lmkit.encoding import prompt_ids
from lmkit.saving.manifest import (
    SCHEMA,
    Golden,
    Manifest,
    Ports,
    Seq2SeqGraph,
    Tensor,
    Tokens,
    write_manifest,
)

from .toybundle import sign, toy_tokenizer

HEADS, HEAD_SIZE = 2, 8
WIDTH = HEADS * HEAD_SIZE
SOURCE_LENGTH, TARGET_LENGTH = 64, 24
START = 3
RECORDS = [{"article": "안녕하세요?"}, {"article": "What is 2+2?"}, {"article": "네"}]
TASK = lk.Task(
    name="toy-pair",
    formatter=lk.context("{article}") + lk.target("{summary}"),
    collator=lk.Seq2SeqCollator(max_source_length=48, max_target_length=TARGET_LENGTH),
    decoder=lk.TextDecoder(),
    generation=lk.Generation(max_new_tokens=12),
)


@attrs.frozen
class Pair:
    """The weights, and both forward passes in numpy."""

    embed: np.ndarray  # [V, W]
    places: np.ndarray  # [C, W]
    own: np.ndarray  # [W, W]
    key: np.ndarray  # [W, W]
    value: np.ndarray  # [W, W]

    def logits(self, source: np.ndarray, target: list[int]) -> np.ndarray:
        """Return the logits behind each token of one target, float [T, V]."""
        read = self.embed[source]
        x = self.embed[target] + self.places[: len(target)]
        queries = x @ self.own
        seen = np.tril(np.ones((len(target), len(target)), bool))
        everything = np.ones((len(target), len(source)), bool)
        y = x + _attention(queries, queries, x, seen)
        y = y + _attention(y, read @ self.key, read @ self.value, everything)
        return y @ self.embed.T

    def greedy(self, source: np.ndarray, count: int) -> list[int]:
        """Return the likeliest tokens of a target, end tokens not minded."""
        ids = [START]
        for _ in range(count):
            ids.append(int(self.logits(source, ids)[-1].argmax()))
        return ids[1:]


def _attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    heads = []
    for at in range(0, WIDTH, HEAD_SIZE):
        part = slice(at, at + HEAD_SIZE)
        scores = query[:, part] @ key[:, part].T / np.sqrt(HEAD_SIZE)
        weights = np.exp(np.where(seen, scores, -np.inf))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, part])
    return np.concatenate(heads, axis=1)


def toy_pair(vocab_size: int) -> Pair:
    rng = np.random.default_rng(11)

    def weights(*shape: int, size: float = 1.0) -> np.ndarray:
        return (size * rng.normal(size=shape)).astype(np.float32)

    return Pair(
        embed=weights(vocab_size, WIDTH),
        places=weights(TARGET_LENGTH, WIDTH),
        own=weights(WIDTH, WIDTH, size=0.3),
        key=weights(WIDTH, WIDTH, size=0.3),
        value=weights(WIDTH, WIDTH),
    )


def toy_graph(vocab_size: int) -> Seq2SeqGraph:
    """Return the contract as the manifest states it."""
    source = ("source_batch_size", "source_length")
    cross = ("source_batch_size", HEADS, "source_length", HEAD_SIZE)
    past = ("batch_size", HEADS, "past_sequence_length", HEAD_SIZE)

    def ids(name: str, *axes: str | int) -> Tensor:
        return Tensor(name=name, dtype="int64", axes=axes)

    def kept(name: str, axes: tuple[str | int, ...]) -> tuple[Tensor, ...]:
        parts = (f"{name}.0.key", f"{name}.0.value")
        return tuple(Tensor(name=part, dtype="float32", axes=axes) for part in parts)

    crosses = kept("cross_key_values", cross)
    return Seq2SeqGraph(
        encoder=Ports(
            file="encoder.onnx",
            inputs=(ids("input_ids", *source), ids("attention_mask", *source)),
            outputs=crosses,
        ),
        decoder=Ports(
            file="decoder.onnx",
            inputs=(
                ids("input_ids", "batch_size", 1),
                ids("encoder_attention_mask", *source),
                ids("position", 1),
                *kept("past_key_values", past),
                *crosses,
            ),
            outputs=(
                Tensor(name="logits", dtype="float32", axes=("batch_size", 1, vocab_size)),
                *kept("present", past),
            ),
        ),
        n_layers=1,
        n_heads=HEADS,
        head_size=HEAD_SIZE,
        vocab_size=vocab_size,
        context_length=SOURCE_LENGTH,
        target_length=TARGET_LENGTH,
        start_id=START,
    )


def write_graphs(pair: Pair, folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx`, each with its weights inside."""
    node = helper.make_node
    graph = toy_graph(len(pair.embed))
    reading = [node("Gather", ["embed", "input_ids"], ["read"])]
    for part in ("key", "value"):
        reading += [
            node("MatMul", ["read", part], [f"flat.{part}"]),
            node("Reshape", [f"flat.{part}", "split"], [f"heads.{part}"]),
            node(
                "Transpose",
                [f"heads.{part}"],
                [f"cross_key_values.0.{part}"],
                perm=[0, 2, 1, 3],
            ),
        ]
    writing = [
        node("Gather", ["embed", "input_ids"], ["tokens"]),
        node("Gather", ["places", "position"], ["where"]),
        node("Add", ["tokens", "where"], ["x"]),
        node("MatMul", ["x", "own"], ["queries"]),
        node("Shape", ["input_ids"], ["rows"], start=0, end=1),
        node("Cast", ["position"], ["narrow"], to=TensorProto.INT32),
        node("Expand", ["narrow", "rows"], ["seqlens_k"]),
        node("Shape", ["past_key_values.0.key"], ["capacity"], start=2, end=3),
        node("Cast", ["capacity"], ["total"], to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            [
                *("queries", "queries", "x", "past_key_values.0.key", "past_key_values.0.value"),
                *("seqlens_k", "total"),
            ],
            ["remembered", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=HEADS,
        ),
        node("Add", ["x", "remembered"], ["y"]),
        node("Shape", ["encoder_attention_mask"], ["sources"], start=0, end=1),
        node("Concat", ["sources", "flat_sizes"], ["grouped_shape"], axis=0),
        node("Reshape", ["y", "grouped_shape"], ["grouped"]),
        node("Cast", ["encoder_attention_mask"], ["mask"], to=TensorProto.INT32),
        node(
            "MultiHeadAttention",
            ["grouped", "cross_key_values.0.key", "cross_key_values.0.value", "", "mask"],
            ["attended"],
            domain="com.microsoft",
            num_heads=HEADS,
        ),
        node("Reshape", ["attended", "row_shape"], ["told"]),
        node("Add", ["y", "told"], ["z"]),
        node("Transpose", ["embed"], ["head"], perm=[1, 0]),
        node("MatMul", ["z", "head"], ["logits"]),
    ]
    arrays = attrs.asdict(pair)
    sizes = {
        "split": [0, 0, HEADS, HEAD_SIZE],
        "flat_sizes": [-1, WIDTH],
        "row_shape": [-1, 1, WIDTH],
    }
    constants = {**arrays, **{name: np.array(size, np.int64) for name, size in sizes.items()}}
    _write(
        folder,
        graph.encoder,
        reading,
        {n: constants[n] for n in ("embed", "key", "value", "split")},
    )
    used = ("embed", "places", "own", "flat_sizes", "row_shape")
    _write(folder, graph.decoder, writing, {name: constants[name] for name in used})


def _write(
    folder: Path, ports: Ports, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]
) -> None:
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], t.axes) for t in side]
        for side in (ports.inputs, ports.outputs)
    )
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / ports.file)


def write_pair(folder: Path, *, task: lk.Task = TASK) -> Path:
    """Write a whole bundle and return its folder."""
    folder.mkdir(parents=True)
    tokenizer = toy_tokenizer()
    assert tokenizer.eos_id is not None
    assert tokenizer.pad_id is not None
    pair = toy_pair(tokenizer.vocab_size)
    write_graphs(pair, folder)
    tokenizer.save(folder)
    prompt = prompt_ids(task, RECORDS[0], tokenizer)
    manifest = Manifest(
        schema=SCHEMA,
        lmkit=lk.__version__,
        created=now(),
        families=("seq2seq",),
        task=task,
        model={"name": "toy", "architecture": "Toy", "model_type": "toy", "parameters": 1},
        graph=toy_graph(tokenizer.vocab_size),
        tokens=Tokens(eos=tokenizer.eos_id, stop=(tokenizer.eos_id,), pad=tokenizer.pad_id),
        golden=(
            Golden(
                record=RECORDS[0],
                prompt_ids=tuple(prompt.tolist()),
                token_ids=tuple(pair.greedy(prompt, 4)),
            ),
        ),
    )
    write_manifest(manifest, folder)
    sign(folder)
    return folder
