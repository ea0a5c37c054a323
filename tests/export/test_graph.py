"""One fused graph for prefill and decode answers as torch does, for every kind of attention."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from lmkit.errors import ExportError  # noqa: E402
from lmkit.export.graph import (  # noqa: E402
    GraphContract,
    check_exportable,
    export_causal,
)

VOCAB = 128
WINDOW = 8  # shorter than every text below, so that the window matters
NEW = 24
# Both sides compute in float32 and only add up in another order: 1e-6 a term over at most a few
# hundred terms, on logits of size ten. Measured on one row of every model here: below 1e-5.
TOLERANCE = 5e-5

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
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "scale_attn_by_inverse_layer_idx": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": {**SMALL, "head_dim": 16, "tie_word_embeddings": True},
    "qwen2": {**SMALL, "hidden_size": 64, "tie_word_embeddings": False},
    "qwen3": {**SMALL, "head_dim": 16, "tie_word_embeddings": True},
    "mistral": {**SMALL, "sliding_window": WINDOW, "tie_word_embeddings": False},
    "gemma2": {
        **SMALL,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 6.0,
    },
    "gemma3_text": {
        **SMALL,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt_oss": {
        **SMALL,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "opt": {**MANY_HEADS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {**MANY_HEADS, "tie_word_embeddings": False},
    "phi": {**SMALL, "partial_rotary_factor": 0.5},
}


class Dense(torch.nn.Module):
    """Stands where gpt-oss has experts, with their two results."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.linear(hidden), None


def toy(kind: str) -> transformers.PreTrainedModel:
    """Build a small model whose every parameter matters: norms off one, biases off zero, sharp logits."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CASES[kind])
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    ).eval()
    if kind == "gpt_oss":  # its experts cannot be exported, its attention sinks can
        for layer in model.model.layers:
            layer.mlp = Dense(config.hidden_size)
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

    def step(
        self, ids: np.ndarray, past: Sequence[int], new: Sequence[int], keep: int | None = None
    ) -> np.ndarray:
        """Feed ids int64 [B, S], of which row b has `new[b]`, after `past[b]` tokens; logits [B, S, V]."""
        total = [before + count for before, count in zip(past, new, strict=True)]
        mask = (np.arange(max(total))[None, :] < np.array(total)[:, None]).astype(np.int64)
        positions = np.array(past)[:, None] + np.arange(ids.shape[1])[None, :]
        binding = self.session.io_binding()
        binding.bind_output("logits")
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids))
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_cpu_input("position_ids", positions.astype(np.int64))
        if keep is not None:
            binding.bind_ortvalue_input(
                "num_logits_to_keep", ort.OrtValue.ortvalue_from_numpy(np.array([keep]))
            )
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
        logits: np.ndarray = (
            model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
        )
    return logits


def torch_greedy(
    model: transformers.PreTrainedModel, prompt: Sequence[int], n: int = NEW
) -> list[int]:
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


@pytest.mark.slow
def test_buffers_need_not_be_shared(exported: Exported) -> None:
    """A caller without shared buffers feeds an empty past first and gets a longer present back."""
    prompt = some_prompt(12)
    runner = exported.runner()
    names = [port.name for port in exported.contract.inputs[3:]]
    shape = (1, exported.contract.kv_heads, 0, exported.contract.head_size)
    past = [np.zeros(shape, np.float32) for _ in names]

    parts = []
    for start, stop in ((0, 10), (10, 11), (11, 12)):
        ids = np.array([prompt[start:stop]])
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop)[None],
        }
        logits, *past = runner.session.run(None, feeds | dict(zip(names, past, strict=True)))
        parts.append(logits[0])

    assert past[0].shape[2] == 12
    reference = torch_logits(exported.model, prompt)
    np.testing.assert_allclose(np.concatenate(parts), reference, rtol=0, atol=TOLERANCE)


ROTATES = ("llama", "qwen2", "qwen3")  # those above whose heads are of 16 numbers


@pytest.mark.slow
def test_positions_come_from_position_ids_or_where_attention_rotates_from_the_mask(
    exported: Exported,
) -> None:
    rotates = exported.model.config.model_type in ROTATES
    prompt, shift = some_prompt(9), 7
    positions = torch.arange(9)[None] + shift
    with torch.no_grad():
        reference = (
            exported.model(
                input_ids=torch.tensor([prompt]),
                position_ids=positions - shift if rotates else positions,
                use_cache=False,
            )
            .logits[0]
            .numpy()
        )
    runner = exported.runner()
    session_feeds = {
        "input_ids": np.array([prompt]),
        "attention_mask": np.ones((1, 9), np.int64),
        "position_ids": positions.numpy(),
    }
    past = {
        port.name: np.zeros(
            (1, exported.contract.kv_heads, 0, exported.contract.head_size), np.float32
        )
        for port in exported.contract.inputs[3:]
    }

    logits = runner.session.run(["logits"], session_feeds | past)[0][0]

    np.testing.assert_allclose(logits, reference, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "got"), [(0, 13), (1, 1), (4, 4), (13, 13), (14, 13)])
def test_the_logits_of_the_last_positions_may_be_asked_for(
    exported: Exported, asked: int, got: int
) -> None:
    ids = np.array([some_prompt(13), some_prompt(13, 2)])
    runner = exported.runner(rows=2)
    every = runner.step(ids, [0, 0], [13, 13])

    some = runner.step(ids, [0, 0], [13, 13], keep=asked)

    assert some.shape == (2, got, every.shape[2])
    # A product of fewer rows adds up in another order.
    np.testing.assert_allclose(some, every[:, -got:], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_what_only_the_logits_need_runs_on_the_positions_that_are_asked_for(
    exported: Exported,
) -> None:
    graph = pytest.importorskip("onnx").load(exported.path, load_external_data=False).graph
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by["logits"]
    while node.op_type not in ("MatMul", "FusedMatMul"):
        node = made_by[node.input[0]]
    [read] = [value for value in graph.value_info if value.name == node.input[0]]

    # The head's product reads no other position, and neither does what comes before it.
    assert read.type.tensor_type.shape.dim[1].dim_param == "kept_length"
    assert made_by[node.input[0]].op_type != "Slice"
    overridable = [value.name for value in exported.runner().session.get_overridable_initializers()]
    assert overridable == ["num_logits_to_keep"]


@pytest.mark.slow
def test_the_graph_loads_unchanged_in_onnxruntime_genai(exported: Exported) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    prompt = some_prompt(13)
    expected = torch_greedy(exported.model, prompt)
    never_drawn = next(token for token in range(VOCAB) if token not in expected)
    config = minimal_genai_config(exported.contract, end=never_drawn)
    (exported.path.parent / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")

    model = genai.Model(str(exported.path.parent))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(expected), do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens([prompt])
    while not generator.is_done():
        generator.generate_next_token()

    assert [int(token) for token in generator.get_sequence(0)] == expected


def minimal_genai_config(contract: GraphContract, *, end: int) -> Mapping[str, object]:
    """Return the least that onnxruntime-genai 0.18 needs beside the graph."""
    return {
        "model": {
            "type": "llama",
            "bos_token_id": 1,
            "eos_token_id": end,
            "pad_token_id": end,
            "vocab_size": contract.vocab_size,
            "context_length": contract.context_length,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"provider_options": []},
                "num_hidden_layers": contract.n_layers,
                "num_attention_heads": contract.heads,
                "num_key_value_heads": contract.kv_heads,
                "head_size": contract.head_size,
                "hidden_size": contract.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": contract.context_length, "past_present_share_buffer": True},
    }


TINY_MAMBA = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "bloom": (
        {"vocab_size": VOCAB, "hidden_size": 16, "n_layer": 1, "n_head": 2},
        "code of its own",
    ),
    "mpt": ({"vocab_size": VOCAB, "d_model": 16, "n_layers": 1, "n_heads": 2}, "code of its own"),
    "falcon": (
        {
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "alibi": True,
        },
        "code of its own",
    ),
    "gptj": (
        {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
        "own",
    ),
    "gpt2": (
        {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 1, "n_head": 4, "n_positions": 32},
        "has heads of 12 numbers, and onnxruntime's attention reads multiples of 8",
    ),
    "mamba": (TINY_MAMBA, "state other than keys and values"),
    "qwen3_next": (
        {
            **SMALL,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "num_experts": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
        "state other than keys and values",
    ),
    "lfm2": (
        {**SMALL, "layer_types": ["conv", "full_attention"]},
        "layers of another kind than attention over all or recent tokens (conv)",
    ),
    "mixtral": ({**SMALL, "num_local_experts": 2}, "some of its experts"),
    "deepseek_v3": (
        {
            **SMALL,
            "num_key_value_heads": 4,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 4,
            "first_k_dense_replace": 2,
            "n_routed_experts": 8,
            "n_group": 1,
            "topk_group": 1,
        },
        "keys and values that its cache does not hold",
    ),
}


def from_config(kind: str, settings: Mapping[str, object]) -> transformers.PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_operator_cannot_express_is_refused_by_name_and_reason(kind: str) -> None:
    settings, reason = REFUSED[kind]
    model = from_config(kind, settings)

    with pytest.raises(ExportError) as refusal:
        check_exportable(model)

    text = str(refusal.value)
    assert text.startswith(f"{type(model).__name__} cannot be exported as a causal model: it ")
    assert reason in text
    assert "\n" not in text


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )

    with pytest.raises(ExportError, match=r"T5ForConditionalGeneration .* is an encoder-decoder"):
        check_exportable(transformers.T5ForConditionalGeneration(config))


def test_a_model_without_a_head_is_refused() -> None:
    model = transformers.LlamaModel(transformers.LlamaConfig(**SMALL))

    with pytest.raises(ExportError, match="no head that predicts the next token"):
        check_exportable(model)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_are_refused(rope: str) -> None:
    parameters: dict[str, object] = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    if rope == "longrope":
        parameters |= {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 64,
        }
    model = from_config("llama", {**SMALL, "rope_parameters": parameters})

    with pytest.raises(ExportError, match=f"rope type {rope}"):
        check_exportable(model)


def test_a_model_that_sees_ahead_is_refused() -> None:
    model = from_config(
        "gemma3_text", {**CASES["gemma3_text"], "use_bidirectional_attention": True}
    )

    with pytest.raises(ExportError, match="lets tokens see the ones after them"):
        check_exportable(model)


def test_a_refused_model_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        export_causal(from_config("mamba", TINY_MAMBA), tmp_path / "model.onnx")

    assert not list(tmp_path.iterdir())


def state_of(model: transformers.PreTrainedModel) -> dict[str, object]:
    """Return everything about the model that an export could disturb."""
    return {
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "training": [module.training for module in model.modules()],
        "dtypes": {name: tensor.dtype for name, tensor in model.state_dict().items()},
        "places": {name: tensor.data_ptr() for name, tensor in model.state_dict().items()},
        "trained": [parameter.requires_grad for parameter in model.parameters()],
    }


def test_a_model_is_unchanged_by_an_export_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy("llama").to(torch.bfloat16).train()
    model.model.layers[0].eval()
    before = state_of(model)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"LlamaForCausalLM cannot be traced .*: no such thing"):
        export_causal(model, tmp_path / "model.onnx")

    assert state_of(model) == before


@pytest.mark.slow
def test_a_half_precision_model_exports_in_float32_and_stays_half(tmp_path: Path) -> None:
    model = toy("qwen2").to(torch.bfloat16).train()
    before = state_of(model)
    prompt = some_prompt(12)

    contract = export_causal(model, tmp_path / "model.onnx")
    logits = Runner(tmp_path / "model.onnx", contract, rows=1, capacity=16).step(
        np.array([prompt]), [0], [12]
    )[0]

    assert state_of(model) == before
    reference = torch_logits(model.float().eval(), prompt)
    np.testing.assert_allclose(logits, reference, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_an_export_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = toy("gpt2")
    capfd.readouterr()

    export_causal(model, tmp_path / "model.onnx")

    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_every_weight_is_stored_once(kind: str, tmp_path: Path) -> None:
    settings = dict(CASES[kind]) | (
        {"vocab_size": 6000} if kind != "qwen2" else {"vocab_size": 3000}
    )
    model = from_config(kind, settings)  # tied heads, and one untied
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())

    export_causal(model, tmp_path / "model.onnx")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size <= 1.03 * weights


@pytest.mark.slow
def test_the_graph_is_small_and_of_a_version_that_runtimes_read(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported.path, load_external_data=False)
    operators = [node.op_type for node in graph.graph.node]

    assert graph.ir_version <= 13
    assert operators.count("GroupQueryAttention") == exported.contract.n_layers
    rotating = [
        any(a.name == "do_rotary" and a.i for a in node.attribute) for node in graph.graph.node
    ]
    rotates = exported.model.config.model_type in ROTATES
    assert sum(rotating) == (exported.contract.n_layers if rotates else 0)
    if exported.model.config.model_type in ("llama", "qwen2"):
        assert operators.count("MatMul") == 5 * exported.contract.n_layers + (not tied(exported))
        assert not {"Split", "RotaryEmbedding", "Cos", "Reshape"} & set(operators)
    if exported.model.config.model_type in ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "opt"):
        assert "Transpose" not in operators
    assert "Gemm" not in operators  # weight quantisers look for MatMul
    needed = [p.name for p in exported.contract.inputs]
    assert [value.name for value in graph.graph.input] == [*needed, "num_logits_to_keep"]
    assert [value.name for value in graph.graph.output] == [
        p.name for p in exported.contract.outputs
    ]


def tied(exported: Exported) -> bool:
    return bool(exported.model.config.tie_word_embeddings)


def test_a_window_one_token_longer_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator and transformers count a window alike, and these models would notice if not."""
    for kind in ("mistral", "gemma2", "gemma3_text", "gpt_oss"):
        model = toy(kind)
        text = some_prompt(13)
        right = torch_logits(model, text)
        model.config.sliding_window += 1

        assert np.abs(torch_logits(model, text) - right).max() > 10 * TOLERANCE
