"""Every kind of graph, quantised, computes what float32 does with the rounded weights in their places."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from lmkit.export import masked, seq2seq  # noqa: E402
from lmkit.export.external import save_together  # noqa: E402
from lmkit.export.graph import export_causal  # noqa: E402
from lmkit.export.quantizing import quantize  # noqa: E402
from lmkit.export.quantizing.blocks import Format, blocked, restored  # noqa: E402
from lmkit.export.quantizing.kernels import BlockKernel  # noqa: E402
from lmkit.export.quantizing.quantize import rewritten  # noqa: E402
from lmkit.export.quantizing.roles import roles  # noqa: E402
from lmkit.export.quantizing.weights import weights  # noqa: E402

VOCAB = 130
CAUSAL = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {
        "hidden_size": 48,  # no multiple of a block of 32
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
FOUR = Format(bits=4, block=32)
# Both sides multiply by the same numbers, all in float32, and only add up in another order.
TOLERANCE = 1e-4


class Given:
    """What a family's `write` needs of a source to trace a model."""

    tokenizer = None

    def __init__(self, model):
        self.model = model


def graphs_of(kind, folder):
    """Return the fused float32 graphs of a small model with random weights."""
    torch.manual_seed(0)
    if kind in CAUSAL:
        config = transformers.AutoConfig.for_model(kind, vocab_size=VOCAB, **CAUSAL[kind])
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        export_causal(model, folder / "model.onnx")
        return {"model.onnx": ir.load(folder / "model.onnx")}
    found: dict[str, ir.Model] = {}
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=VOCAB,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
        model = transformers.T5ForConditionalGeneration(config).eval()
        seq2seq.write(folder, Given(model), found.update)
    else:
        config = transformers.AutoConfig.for_model(
            kind,
            vocab_size=VOCAB,
            hidden_size=32,
            embedding_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        model = transformers.AutoModelForMaskedLM.from_config(config).eval()
        masked.write(folder, Given(model), found.update)
    return found


def put_back(model):
    """Return the graph in float32 with each weight that products or lookups read rounded."""
    whole = model.clone()
    for weight in weights(whole.graph):
        array = restored(blocked(weight.array, FOUR))
        plain = weight.products and weight.products[0].op_type in ("MatMul", "Gemm")
        weight.value.const_value = ir.tensor(
            np.ascontiguousarray(array.T if plain else array), name=weight.name
        )
    return whole


def answers(model, path):
    """Return all outputs for inputs made up for the graph's ports."""
    save_together({path: model}, f"{path.name}.data")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    sizes = {"batch_size": 1, "sequence_length": 7, "total_sequence_length": 7}
    rng = np.random.default_rng(0)
    feeds = {}
    for port in session.get_inputs():
        shape = [sizes.get(size, 7) if isinstance(size, str) else size for size in port.shape]
        if port.name.endswith("mask"):
            feeds[port.name] = np.ones(shape, np.int64)
        elif port.name == "position_ids":
            feeds[port.name] = np.arange(7)[None]
        elif port.name.endswith("ids"):
            feeds[port.name] = rng.integers(3, VOCAB, shape)
        elif port.type == "tensor(int64)":
            feeds[port.name] = np.full(shape, 6)  # a length, or the place of the last token
        else:
            feeds[port.name] = rng.standard_normal(shape).astype(np.float32)
    return session.run(None, feeds)


@pytest.fixture(scope="module", params=[*CAUSAL, "bert", "albert", "t5"])
def graphs(request, tmp_path_factory):
    return graphs_of(request.param, tmp_path_factory.mktemp(request.param))


def test_it_computes_what_its_rounded_weights_say(graphs, tmp_path):
    kernel = BlockKernel(format=FOUR, accuracy_level=1)  # what is multiplied stays in float32
    for name, graph in graphs.items():
        if name == "decoder.onnx":
            continue  # its inputs are what an encoder's graph gives; tests/export/test_seq2seq.py has both
        found = answers(rewritten(graph, lambda weight: kernel), tmp_path / f"small.{name}")
        expected = answers(put_back(graph), tmp_path / f"whole.{name}")
        for ours, theirs in zip(found, expected, strict=True):
            scale = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * scale)


def test_every_product_of_a_constant_reads_blocks(graphs, tmp_path, monkeypatch):
    module = importlib.import_module("lmkit.export.quantizing.quantize")
    monkeypatch.setattr(module, "SMALLEST", 0)
    for graph in graphs.values():
        smaller = quantize(graph, "int4")
        assert not list(weights(smaller.graph))
        assert any(node.op_type == "MatMulNBits" for node in smaller.graph)


def test_attention_and_head_are_told_by_the_nodes_around_them(graphs):
    found = {
        role
        for graph in graphs.values()
        for weight in weights(graph.graph)
        for role in roles(weight)
    }
    assert {"attention", "head", "lookup", "down"} <= found


@pytest.mark.parametrize("graphs", ["bert", "albert"], indirect=True)
def test_a_masked_model_multiplies_integers_everywhere_but_for_its_logits(
    graphs, tmp_path, monkeypatch
):
    module = importlib.import_module("lmkit.export.quantizing.quantize")
    monkeypatch.setattr(module, "SMALLEST", 0)
    (graph,) = graphs.values()

    small = quantize(graph, "int8")

    kinds = [node.op_type for node in small.graph]
    assert kinds.count("MatMulNBits") == 1
    products = {node for weight in weights(graph.graph) for node in weight.products}
    assert kinds.count("MatMulIntegerToFloat") == len(products) - 1 > 8
    assert "MatMulIntegerToFloat" not in {
        node.op_type for node in quantize(graph, "int8", careful=True).graph
    }
    (ours,), (theirs,) = (
        answers(one, tmp_path / name) for name, one in (("small", small), ("whole", graph))
    )
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)
