"""A masked bundle made by hand, without torch: each token's logits follow from it and its whole text.

The graph looks a token's row up, and adds the mean of another table's rows over the text, so that
padding that is not left out would show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from toys import wordpiece

import lmkit as lk
from lmkit.chat.rendering import now
from lmkit.encoding import prompt_ids
from lmkit.saving.manifest import (
    SCHEMA,
    Golden,
    Manifest,
    MaskedGraph,
    Tensor,
    Tokens,
    write_manifest,
)

from .toybundle import sign

CONTEXT_LENGTH = 16
SIZE = wordpiece().vocab_size
RECORD = {"text": "영화는 [MASK] 좋았다 [MASK]!"}
TASK = lk.get_task("mlm")
_RNG = np.random.default_rng(5)
OWN, OTHERS = (_RNG.normal(size=(SIZE, SIZE)).astype(np.float32) * 3 for _ in range(2))

_CELLS = ("batch_size", "sequence_length")
GRAPH = MaskedGraph(
    file="model.onnx",
    inputs=tuple(
        Tensor(name=n, dtype="int64", axes=_CELLS) for n in ("input_ids", "attention_mask")
    ),
    outputs=(Tensor(name="logits", dtype="float32", axes=(*_CELLS, SIZE)),),
    vocab_size=SIZE,
    context_length=CONTEXT_LENGTH,
)


def toy_logits(ids: np.ndarray) -> np.ndarray:
    """Return the logits for one text, float [T, V]."""
    return OWN[ids] + OTHERS[ids].mean(axis=0)


def write_masked_bundle(folder: Path, *, task: lk.Task = TASK) -> Path:
    """Write a whole bundle and return its folder."""
    folder.mkdir(parents=True)
    _write_graph(folder)
    tokenizer = wordpiece()
    tokenizer.save(folder)
    assert tokenizer.pad_id is not None
    prompt = prompt_ids(task, RECORD, tokenizer)
    best = toy_logits(prompt)[prompt == tokenizer.mask_id].argmax(axis=1)
    golden = Golden(
        record=RECORD, prompt_ids=tuple(prompt.tolist()), token_ids=tuple(best.tolist())
    )
    manifest = Manifest(
        schema=SCHEMA,
        lmkit=lk.__version__,
        created=now(),
        families=("masked",),
        task=task,
        model={"name": "toy", "architecture": "Toy", "model_type": "toy", "parameters": 1},
        graph=GRAPH,
        tokens=Tokens(eos=None, stop=(), pad=tokenizer.pad_id),
        golden=(golden,),
    )
    write_manifest(manifest, folder)
    sign(folder)
    return folder


def _write_graph(folder: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Gather", ["own", "input_ids"], ["here"]),
        node("Gather", ["others", "input_ids"], ["said"]),
        node("Cast", ["attention_mask"], ["known"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["known", "two"], ["weights"]),
        node("Mul", ["said", "weights"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["total"], keepdims=1),
        node("ReduceSum", ["weights", "one"], ["count"], keepdims=1),
        node("Div", ["total", "count"], ["mean"]),
        node("Add", ["here", "mean"], ["logits"]),
    ]
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], t.axes) for t in side]
        for side in (GRAPH.inputs, GRAPH.outputs)
    )
    arrays = {"own": OWN, "others": OTHERS, "one": np.array([1]), "two": np.array([2])}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
