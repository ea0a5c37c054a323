"""A bundle made by hand, without torch: the smallest graph that keeps the contract, and its numpy twin.

One layer of grouped-query attention over token and position embeddings, a mixing matrix, and a head
that is the token embeddings again. The weights are random but fixed, so the text it writes is noise
that every test can rely on. With a `script` it writes that text behind the prompt `RECORD` instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lmkit as lk
from lmkit.chat.rendering import now
from lmkit.decoding.text import TextDecoder
from lmkit.encoding import prompt_ids
from lmkit.saving.manifest import (
    SCHEMA,
    File,
    Golden,
    Graph,
    Manifest,
    Prefix,
    Tensor,
    Tokens,
    read_manifest,
    signature,
    write_manifest,
)
from lmkit.saving.precisions import Precision

WIDTH, HEADS, KV_HEADS, HEAD_SIZE = 16, 4, 2, 8
CONTEXT_LENGTH = 64
GOLDEN_TOKENS = 6
RECORD = {"prompt": "안녕하세요?"}
RECORDS = [RECORD, {"prompt": "What is 2+2?"}, {"prompt": "👩‍👩‍👧"}, {"prompt": "네"}]
TASK = lk.Task(
    name="toy",
    formatter=lk.context("Q: {prompt}\nA:") + lk.target(" {completion}"),
    collator=lk.CausalCollator(max_length=CONTEXT_LENGTH),
    decoder=TextDecoder(),
    generation=lk.Generation(max_new_tokens=12),
)


def toy_tokenizer() -> lk.Tokenizer:
    """Return a byte-level tokenizer with few merges, so that Hangul and emoji are several tokens."""
    return lk.train_tokenizer(kind="bpe", vocab_size=264, data=[{"text": "What is it?"}])


@attrs.frozen
class Toy:
    """The model's weights, and its forward pass in numpy."""

    embed: np.ndarray  # [V, W]
    places: np.ndarray  # [C, W]
    query: np.ndarray  # [W, H * D]
    key: np.ndarray  # [W, KV * D]
    value: np.ndarray  # [W, KV * D]
    out: np.ndarray  # [H * D, W]
    mix: np.ndarray  # [W, W]
    script: np.ndarray  # [C, V], added to the logits behind each position

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Return the logits behind each token of one text, float [T, V]."""
        length = len(ids)
        x = self.embed[ids] + self.places[:length]
        query = (x @ self.query).reshape(length, HEADS, HEAD_SIZE)
        key, value = ((x @ w).reshape(length, KV_HEADS, HEAD_SIZE) for w in (self.key, self.value))
        seen = np.tril(np.ones((length, length), bool))
        heads = []
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            scores = query[:, head] @ key[:, shared].T / np.sqrt(HEAD_SIZE)
            weights = np.exp(np.where(seen, scores, -np.inf))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, shared])
        x = x + np.concatenate(heads, axis=1) @ self.out
        return x @ self.mix @ self.embed.T + self.script[:length]

    def prefix(self, ids: np.ndarray) -> np.ndarray:
        """Return what a text leaves in the cache, float32 [1, 2, KV, n, D].

        So a prompt behind this prefix must come out as one behind that text.
        """
        x = self.embed[ids] + self.places[: len(ids)]
        parts = ((x @ w).reshape(len(ids), KV_HEADS, HEAD_SIZE) for w in (self.key, self.value))
        return np.stack([part.transpose(1, 0, 2) for part in parts])[None].astype(np.float32)

    def greedy(self, prompt: np.ndarray, count: int) -> list[int]:
        """Return the likeliest tokens behind a prompt, end tokens not minded."""
        ids = [int(token) for token in prompt]
        for _ in range(count):
            ids.append(int(self.logits(np.array(ids))[-1].argmax()))
        return ids[len(prompt) :]


def toy_model(vocab_size: int, script: dict[int, int] | None = None) -> Toy:
    """Return the model; `script` says which token must follow at which position."""
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))

    forced = np.zeros((CONTEXT_LENGTH, vocab_size), np.float32)
    for place, token in (script or {}).items():
        forced[place, token] = 100
    return Toy(
        embed=rng.normal(size=(vocab_size, WIDTH)).astype(np.float32),
        places=rng.normal(size=(CONTEXT_LENGTH, WIDTH)).astype(np.float32),
        query=weights(WIDTH, HEADS * HEAD_SIZE),
        key=weights(WIDTH, KV_HEADS * HEAD_SIZE),
        value=weights(WIDTH, KV_HEADS * HEAD_SIZE),
        out=weights(HEADS * HEAD_SIZE, WIDTH),
        mix=weights(WIDTH, WIDTH),
        script=forced,
    )


_NEW = ("batch_size", "sequence_length")
_KEPT = ("batch_size", KV_HEADS)


def toy_graph(vocab_size: int, n_prefix: int = 0) -> Graph:
    """Return the contract as the manifest states it."""
    parts = ("0.key", "0.value")
    past = (*_KEPT, "past_sequence_length", HEAD_SIZE)
    present = (*_KEPT, "present_sequence_length", HEAD_SIZE)
    return Graph(
        file="model.onnx",
        inputs=(
            Tensor(name="input_ids", dtype="int64", axes=_NEW),
            Tensor(
                name="attention_mask", dtype="int64", axes=("batch_size", "total_sequence_length")
            ),
            Tensor(name="position_ids", dtype="int64", axes=_NEW),
            *(Tensor(name=f"past_key_values.{p}", dtype="float32", axes=past) for p in parts),
        ),
        outputs=(
            Tensor(name="logits", dtype="float32", axes=(*_NEW, vocab_size)),
            *(Tensor(name=f"present.{p}", dtype="float32", axes=present) for p in parts),
        ),
        n_layers=1,
        n_kv_heads=KV_HEADS,
        head_size=HEAD_SIZE,
        vocab_size=vocab_size,
        context_length=CONTEXT_LENGTH - n_prefix,
        prefix=Prefix(file="prefix.npy", n_tokens=n_prefix) if n_prefix else None,
    )


def write_graph(toy: Toy, folder: Path, *, keeps_last: bool = True) -> None:
    """Write `model.onnx`, with the weights beside it in `model.onnx.data`.

    Args:
        toy: the weights.
        folder: where.
        keeps_last: whether a caller can ask for the last places' logits only.
    """
    node = helper.make_node
    nodes = [
        node("Gather", ["embed", "input_ids"], ["tokens"]),
        node("Gather", ["places", "position_ids"], ["where"]),
        node("Add", ["tokens", "where"], ["x"]),
        *(node("MatMul", ["x", name], [f"x_{name}"]) for name in ("query", "key", "value")),
        # The operator wants the index of each row's last token, and the longest row's length.
        node("ReduceSum", ["attention_mask", "one"], ["lengths"], keepdims=0),
        node("Sub", ["lengths", "one"], ["last"]),
        node("Cast", ["last"], ["seqlens_k"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["width"], start=1, end=2),
        node("Cast", ["width"], ["total"], to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            [
                *(
                    "x_query",
                    "x_key",
                    "x_value",
                    "past_key_values.0.key",
                    "past_key_values.0.value",
                ),
                *("seqlens_k", "total"),
            ],
            ["heads", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
        ),
        node("MatMul", ["heads", "out"], ["attended"]),
        node("Add", ["x", "attended"], ["y"]),
        *(_keep_last() if keeps_last else ()),
        node("MatMul", ["kept" if keeps_last else "y", "mix"], ["mixed"]),
        node("Transpose", ["embed"], ["head"], perm=[1, 0]),
        node("MatMul", ["mixed", "head"], ["scores"]),
        node("Gather", ["script", "places_kept" if keeps_last else "position_ids"], ["said"]),
        node("Add", ["scores", "said"], ["logits"]),
    ]
    contract = toy_graph(len(toy.embed))
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], t.axes) for t in side]
        for side in (contract.inputs, contract.outputs)
    )
    arrays = {**attrs.asdict(toy), "one": np.array([1], np.int64)}
    if keeps_last:
        arrays |= {
            "num_logits_to_keep": np.array(0, np.int64),
            "end": np.array([1 << 31]),
            "zero": np.array([0]),
        }
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, weights)
    if keeps_last:  # an initializer with an input's name is one that a caller may override
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, []))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (folder / "model.onnx.data").unlink(missing_ok=True)
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=64,
    )


def _keep_last() -> list[onnx.NodeProto]:
    """Return the nodes that cut what the head reads to its last places: `[-n:]`, where 0 is all."""
    return [
        helper.make_node("Neg", ["num_logits_to_keep"], ["minus"]),
        helper.make_node("Unsqueeze", ["minus", "zero"], ["start"]),
        helper.make_node("Slice", ["y", "start", "end", "one"], ["kept"]),
        helper.make_node("Slice", ["position_ids", "start", "end", "one"], ["places_kept"]),
    ]


def write_bundle(
    folder: Path,
    *,
    task: lk.Task = TASK,
    says: str | None = None,
    ends: bool = True,
    behind: Sequence[int] = (),
    keeps_last: bool = True,
    record: Mapping[str, Any] = RECORD,
) -> Path:
    """Write a whole bundle and return its folder.

    Args:
        folder: the folder to make.
        task: what it does.
        says: what it answers to `record`, whatever the weights are.
        ends: whether the end token follows that text.
        behind: ids whose keys and values stand before every prompt, as a soft prompt's would.
        keeps_last: whether its graph can leave out the logits of all but the last places.
        record: what the golden prompt is made of.
    """
    folder.mkdir(parents=True)
    tokenizer = toy_tokenizer()
    assert tokenizer.eos_id is not None
    assert tokenizer.pad_id is not None
    prompt = prompt_ids(task, record, tokenizer)
    script = None
    if says is not None:
        ids = [*tokenizer.encode(says, opens=False), *([tokenizer.eos_id] if ends else [])]
        script = dict(enumerate(ids, start=len(behind) + len(prompt) - 1))
    toy = toy_model(tokenizer.vocab_size, script)
    write_graph(toy, folder, keeps_last=keeps_last)
    tokenizer.save(folder)
    before = np.array(behind, np.int64)
    if len(behind):
        np.save(folder / "prefix.npy", toy.prefix(before), allow_pickle=False)
    expected = toy.greedy(np.concatenate([before, prompt]), GOLDEN_TOKENS)
    if tokenizer.eos_id in expected:
        expected = expected[: expected.index(tokenizer.eos_id) + 1]
    manifest = Manifest(
        schema=SCHEMA,
        lmkit=lk.__version__,
        created=now(),
        families=("causal",),
        task=task,
        model={"name": "toy", "architecture": "Toy", "model_type": "toy", "parameters": 1},
        graph=toy_graph(tokenizer.vocab_size, len(behind)),
        tokens=Tokens(
            eos=tokenizer.eos_id,
            stop=(tokenizer.eos_id,),
            pad=tokenizer.pad_id,
            bos=tokenizer.bos_id,
        ),
        golden=(
            Golden(
                record=dict(record), prompt_ids=tuple(prompt.tolist()), token_ids=tuple(expected)
            ),
        ),
        precisions={
            "fp32": Precision(parity={"max_logit_difference": 0.0}, golden=(tuple(expected),))
        },
    )
    write_manifest(manifest, folder)
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Write down the files as they are now, as one who tampers with a bundle would."""
    files = {
        path.name: File(
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size
        )
        for path in sorted(folder.iterdir())
        if path.name != "lmkit.json"
    }
    change_manifest(
        folder, lambda data: data.update(files={n: attrs.asdict(f) for n, f in files.items()})
    )
    read_manifest(folder)


def change_manifest(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    """Change `lmkit.json` as data."""
    path = folder / "lmkit.json"
    data = json.loads(path.read_text("utf-8"))
    change(data)
    data["sha256"] = signature(data)
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
