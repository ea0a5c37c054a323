"""Every product of a model with a large weight is one of small integers, in every family's graphs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from lmkit.export import masked, seq2seq  # noqa: E402
from lmkit.export.graph import traced_causal  # noqa: E402
from lmkit.export.quantizing import quantize  # noqa: E402

VOCAB, WIDTH, INNER = 320, 128, 256  # the smallest weight, 128 x 128, is just large enough
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {
    **COMMON,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "gpt2": {**COMMON, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "llama": {**SIZES, "num_key_value_heads": 4},
    "qwen2": {**SIZES, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "bert": SIZES,
    "t5": {
        **COMMON,
        "d_model": WIDTH,
        "d_kv": 32,
        "d_ff": INNER,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    },
}
KINDS = {
    "bert": transformers.AutoModelForMaskedLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
}
INTEGERS = {"MatMulNBits": 1, "MatMulIntegerToFloat": 1}
PRODUCTS = {*INTEGERS, "MatMul", "Gemm", "FusedMatMul"}


@pytest.fixture(scope="module", params=[*((kind, True) for kind in CONFIGS), ("gpt2", False)])
def exported(request, tmp_path_factory):
    """Return a model and its graphs in every precision.

    Untrained biases are zeros, and an optimiser takes additions of those out of a graph.
    """
    kind, biased = request.param
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    model = KINDS.get(kind, transformers.AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_() if biased else parameter.zero_()
    found: dict[str, list] = {}

    def save(graphs):
        for precision in ("int8", "int4"):
            found[precision] = [quantize(graph, precision) for graph in graphs.values()]

    source = SimpleNamespace(model=model, tokenizer=None)
    folder = tmp_path_factory.mktemp(kind)
    if kind in ("bert", "t5"):
        {"bert": masked, "t5": seq2seq}[kind].write(folder, source, save)
    else:
        with traced_causal(model) as (graph, _):
            save({"model.onnx": graph})
    return model, found


def linear(model) -> int:
    """Count the numbers of the weights that torch's own layers multiply by."""
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, kinds))


def multiplied(graph) -> tuple[int, list[str]]:
    """Count the numbers of the weights that a graph multiplies by in integers; name those it does not."""
    total, left = 0, []
    for node in graph.graph:
        if node.op_type not in PRODUCTS or node.inputs[1].const_value is None:
            continue
        weight = node.inputs[1]
        if node.op_type in INTEGERS:
            bits = node.attributes.get_int("bits", 8)
            total += int(np.prod(weight.const_value.shape)) * 8 // bits
        elif not weight.name.startswith("rotation") and not weight.name.startswith("rows."):
            left.append(weight.name)
    return total, left


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_no_product_of_a_large_weight_is_left_in_float(exported, precision):
    model, found = exported
    counted = [multiplied(graph) for graph in found[precision]]
    assert [name for _, left in counted for name in left] == []
    assert sum(total for total, _ in counted) == linear(model)
