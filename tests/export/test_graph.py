"""One fused graph for prefill and decode answers as torch does, for every kind of attention."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from lmkit.errors import ExportError
from lmkit.export.graph import GraphContract, check_exportable, export_causal

VOCAB = 128
WINDOW = 8  # shorter than every text below, so that the window matters
NEW = 24
# Both sides compute in float32 and only add up in another order: 1e-6 a term over at most a few
# hundred terms, on logits of size ten. Measured over all models here: below 4e-5.
TOLERANCE = 2e-4

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MANY_HEADS = {name: size for name, size in SMALL.items() if name != "num_key_value_heads"}
CASES: dict[str, dict[str, object]] = {
    "gpt2": {
        "vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "scale_attn_by_inverse_layer_idx": True, "bos_token_id": 1, "eos_token_id": 2,
    },
    "llama": {**SMALL, "tie_word_embeddings": True},
    "qwen2": {**SMALL, "tie_word_embeddings": False},
    "qwen3": {**SMALL, "head_dim": 16, "tie_word_embeddings": True},
    "mistral": {**SMALL, "sliding_window": WINDOW, "tie_word_embeddings": False},
    "gemma2": {
        **SMALL, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0,
    },
    "gemma3_text": {
        **SMALL, "num_hidden_layers": 3, "head_dim": 8, "sliding_window": WINDOW,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt_oss": {
        **SMALL, "head_dim": 8, "sliding_window": WINDOW, "num_local_experts": 2,
        "num_experts_per_tok": 1, "layer_types": ["sliding_attention", "full_attention"],
    },
    "opt": {**MANY_HEADS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {**MANY_HEADS, "tie_word_embeddings": False},
    "phi": {**SMALL, "partial_rotary_factor": 0.5},
}


def toy(kind: str) -> transformers.PreTrainedModel:
    """Build a small model whose every parameter matters: norms off one, biases off zero, sharp logits."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CASES[kind])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.25 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


class Runner:
    """Runs the graph as a runtime would: one buffer of each layer is both its past and its present."""

    def __init__(self, path: Path, contract: GraphContract, *, rows: int, capacity: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.contract = contract
        shape = (rows, contract.kv_heads, capacity, contract.head_size)
        # Not zeros: what lies beyond a row's length must never be read.
        self.buffers = [
            ort.OrtValue.ortvalue_from_numpy(np.full(shape, 1e4, np.float32))
            for _ in range(2 * contract.n_layers)
        ]

    def step(self, ids: np.ndarray, past: Sequence[int], new: Sequence[int]) -> np.ndarray:
        """Feed ids int64 [B, S], of which row b has `new[b]`, after `past[b]` tokens; logits [B, S, V]."""
        total = [before + count for before, count in zip(past, new, strict=True)]
        mask = (np.arange(max(total))[None, :] < np.array(total)[:, None]).astype(np.int64)
        positions = np.array(past)[:, None] + np.arange(ids.shape[1])[None, :]
        binding = self.session.io_binding()
        binding.bind_output("logits")
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids))
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_cpu_input("position_ids", positions.astype(np.int64))
        names = [port.name for port in self.contract.inputs[3:]]
        for name, buffer in zip(names, self.buffers, strict=True):
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        self.session.run_with_iobinding(binding)
        logits: np.ndarray = binding.get_outputs()[0].numpy()
        return logits


def torch_logits(model: transformers.PreTrainedModel, ids: Sequence[int]) -> np.ndarray:
    """Return torch's float32 [T, V] logits of one unpadded text, computed without any cache."""
    with torch.no_grad():
        logits: np.ndarray = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
    return logits


def torch_greedy(model: transformers.PreTrainedModel, prompt: Sequence[int], n: int = NEW) -> list[int]:
    """Return the prompt and n greedy tokens, end tokens included."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(torch_logits(model, ids)[-1].argmax()))
    return ids


def some_prompt(length: int, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, VOCAB, length)]


class Exported:
    def __init__(self, kind: str, folder: Path) -> None:
        self.model = toy(kind)
        self.path = folder / "model.onnx"
        self.contract = export_causal(self.model, self.path)

    def runner(self, rows: int = 1, capacity: int = 64) -> Runner:
        return Runner(self.path, self.contract, rows=rows, capacity=capacity)


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.slow
def test_one_row_decodes_as_torch_far_beyond_the_window(exported: Exported) -> None:
    prompt = some_prompt(13)
    expected = torch_greedy(exported.model, prompt)
    runner = exported.runner()

    logits = [runner.step(np.array([prompt]), [0], [13])[0]]
    ids = [*prompt, int(logits[-1][-1].argmax())]
    while len(ids) < len(expected):
        logits.append(runner.step(np.array([ids[-1:]]), [len(ids) - 1], [1])[0])
        ids.append(int(logits[-1][-1].argmax()))

    assert ids == expected
    reference = torch_logits(exported.model, expected[:-1])
    assert reference.std() > 0.5  # a flat model would prove nothing
    np.testing.assert_allclose(np.concatenate(logits), reference, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_ragged_rows_decode_as_each_row_alone(exported: Exported) -> None:
    prompts = [some_prompt(3, 5), some_prompt(17, 6), some_prompt(9, 7)]
    expected = [torch_greedy(exported.model, prompt) for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    runner = exported.runner(rows=3)
    padded = np.zeros((3, max(lengths)), np.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt

    logits = runner.step(padded, [0, 0, 0], lengths)
    last = [logits[row, length - 1] for row, length in enumerate(lengths)]
    ids = [[*prompt, int(scores.argmax())] for prompt, scores in zip(prompts, last, strict=True)]
    for row, length in enumerate(lengths):
        alone = torch_logits(exported.model, prompts[row])
        np.testing.assert_allclose(logits[row, :length], alone, rtol=0, atol=TOLERANCE)
    while len(ids[0]) < len(expected[0]):
        past = [len(row) - 1 for row in ids]
        logits = runner.step(np.array([row[-1:] for row in ids]), past, [1, 1, 1])
        for row, scores in zip(ids, logits, strict=True):
            row.append(int(scores[-1].argmax()))

    assert ids == expected
    for row, text in enumerate(expected):
        alone = torch_logits(exported.model, text[:-1])[-1]
        np.testing.assert_allclose(logits[row, -1], alone, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 5, 5, 5, 5, 5), (1, 12, 17), (29, 1)])
def test_a_prompt_may_be_fed_in_chunks(exported: Exported, sizes: tuple[int, ...]) -> None:
    prompt = some_prompt(30)
    runner = exported.runner()

    parts, start = [], 0
    for size in sizes:
        parts.append(runner.step(np.array([prompt[start : start + size]]), [start], [size])[0])
        start += size

    reference = torch_logits(exported.model, prompt)
    np.testing.assert_allclose(np.concatenate(parts), reference, rtol=0, atol=TOLERANCE)
