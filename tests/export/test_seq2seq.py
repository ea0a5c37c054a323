"""Exported encoder-decoders write what transformers' `generate()` writes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx_ir as ir  # noqa: E402
import transformers  # noqa: E402
from encoderdecoders import (  # noqa: E402
    MODELS,
    RECORDS,
    SOURCE_LENGTH,
    small_tokenizer,
    stirred,
    tokenizer_for,
)

import lmkit as lk  # noqa: E402
from lmkit.encoding import prompt_ids  # noqa: E402
from lmkit.errors import ExportError, ParityError  # noqa: E402
from lmkit.export import cross_attention, parity  # noqa: E402
from lmkit.export.reference import refer  # noqa: E402
from lmkit.export.seq2seq import check  # noqa: E402
from lmkit.family import Family  # noqa: E402
from lmkit.train.generating import only_config  # noqa: E402
from lmkit.train.models import load_model  # noqa: E402
from lmkit.train.special import align  # noqa: E402

pytestmark = pytest.mark.slow

NEW = 20


class Exported:
    """A model that was exported, and what it was exported from."""

    def __init__(self, name, folder):
        task = lk.get_task("summarize")
        loaded = load_model(MODELS[name], family=Family.SEQ2SEQ, tokenizer=tokenizer_for(name))
        self.model = stirred(loaded.model)
        self.tokenizer, _ = align(self.model, loaded.tokenizer, task.formatter)
        self.bundle = lk.export(
            self.model, task=task, tokenizer=self.tokenizer, output=folder, data=RECORDS
        )
        self.ask = lk.load(self.bundle.path, threads=1)

    def generated(self, prompt, **options):
        """Return what `generate()` writes for one source, alone and unpadded."""
        own = self.model.generation_config
        config = transformers.GenerationConfig(
            **{"max_new_tokens": NEW, **options},
            do_sample=False,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        with torch.inference_mode(), only_config(self.model, config):
            found = self.model.generate(torch.from_numpy(prompt)[None])
        return found[0, 1:].tolist()


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    return Exported(request.param, tmp_path_factory.mktemp("pair") / "bundle")


def test_it_writes_what_generate_writes_for_ragged_sources_and_long_ones(exported):
    """The trace saw sources of five tokens and targets of four."""
    prompts = [prompt_ids("summarize", record, exported.tokenizer) for record in RECORDS]
    prompts.append(np.resize(np.concatenate(prompts), SOURCE_LENGTH))
    expected = [exported.generated(prompt) for prompt in prompts]
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    assert len({token for ids in expected for token in ids}) > 3

    assert exported.ask.greedy(prompts, NEW) == expected
    assert [exported.ask.greedy([prompt], NEW)[0] for prompt in prompts] == expected


SEARCHED = [
    {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "length_penalty": -1.0, "forced_bos_token_id": 9, "forced_eos_token_id": 5},
    {"num_beams": 4, "early_stopping": "never", "repetition_penalty": 1.4, "min_new_tokens": 6},
    {
        "num_beams": 2,
        "encoder_no_repeat_ngram_size": 2,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": [20],
    },
]


@pytest.mark.parametrize("options", SEARCHED, ids=lambda options: "-".join(options))
def test_its_beams_are_generates(exported, options):
    """Of sources alone and of ragged ones together, whose beams share what was read of each."""
    free = exported.ask.task.generation.override(forced_bos_token_id=None, forced_eos_token_id=None)
    ask = exported.ask.with_task(exported.ask.task.evolve(generation=free))
    expected = [
        exported.generated(ask.prompt(record), max_new_tokens=9, **options) for record in RECORDS
    ]
    assert len({token for ids in expected for token in ids}) > 3

    together = ask.batch(RECORDS, max_new_tokens=9, **options)

    assert [list(answer.token_ids) for answer in together] == expected
    assert [ask(record, max_new_tokens=9, **options) for record in RECORDS] == together


def test_its_logits_are_torchs_wherever_a_target_goes(exported):
    """Random tokens take every row of the embeddings and every distance, as greedy ones do not."""
    graph = exported.bundle.manifest.graph
    answer = np.random.default_rng(5).integers(0, graph.vocab_size, 47)
    prompt = prompt_ids("summarize", RECORDS[0], exported.tokenizer)

    found = exported.ask.forced(prompt, answer)

    with torch.inference_mode():
        expected = exported.model(
            input_ids=torch.from_numpy(prompt)[None],
            decoder_input_ids=torch.tensor([[graph.start_id, *answer.tolist()]]),
        ).logits[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=parity.ABSOLUTE)
    assert expected.std() > 0.1


def test_its_manifest_says_so(exported):
    figures = exported.bundle.manifest.precisions["fp32"]

    assert exported.bundle.manifest.families == ("seq2seq",)
    assert figures.parity["greedy_tokens_equal"] is True
    assert figures.parity["max_logit_difference"] < parity.ABSOLUTE
    assert figures.perplexity["tokens"] > 0
    assert exported.bundle.manifest.golden


def test_rows_of_one_source_share_what_was_read_of_it(exported):
    """As beams do: every row goes on as torch does for its own target."""
    session = exported.ask._session
    prompts = [prompt_ids("summarize", record, exported.tokenizer) for record in RECORDS[:2]]
    state, _ = session.begin(prompts, [8, 8])
    mask = state._read.mask
    start = exported.bundle.manifest.graph.start_id
    targets = [[start, token] for token in (20, 21, 22, 23)]

    state.reorder([0, 0, 1, 1])
    state.step([20, 21, 22, 23])
    state.reorder([1, 0, 3, 3])
    logits = state.step([30, 31, 32, 33])

    assert state._read.mask is mask
    rows = [[*targets[origin], 30 + at] for at, origin in enumerate([1, 0, 3, 3])]
    for at, target in enumerate(rows):
        with torch.inference_mode():
            theirs = exported.model(
                input_ids=torch.from_numpy(prompts[at // 2])[None],
                decoder_input_ids=torch.tensor([target]),
            ).logits[0, -1]
        np.testing.assert_allclose(logits[at], theirs.numpy(), atol=parity.ABSOLUTE)


def test_its_weights_are_stored_once(exported):
    folder = exported.bundle.path
    parameters = {p.data_ptr(): p.numel() * 4 for p in exported.model.parameters()}
    graphs = [ir.load(folder / name) for name in ("encoder.onnx", "decoder.onnx")]
    stored = [
        (tensor.offset, tensor.length)
        for graph in graphs
        for tensor in (value.const_value for value in graph.graph.initializers.values())
        if isinstance(tensor, ir.ExternalTensor)
    ]

    assert {file.name for file in folder.glob("*.data")} == {"model.onnx.data"}
    tables = 4096  # bytes at most: T5's distances; an embedding is 19200
    assert sum(length for _, length in set(stored)) <= sum(parameters.values()) + tables
    if exported.model.get_output_embeddings().weight.data_ptr() in (
        exported.model.get_input_embeddings().weight.data_ptr(),
    ):
        assert len(stored) > len(set(stored)), "the embedding is in both graphs"


def test_it_answers_alone_in_a_batch_and_in_pieces(exported):
    answers = exported.ask.batch(RECORDS, max_new_tokens=8)

    assert answers == [exported.ask(record, max_new_tokens=8) for record in RECORDS]
    assert "".join(exported.ask.stream(RECORDS[0], max_new_tokens=8)) == answers[0].text


def test_an_article_that_is_too_long_is_compared_as_far_as_it_is_read_and_is_no_golden_one(
    exported,
):
    records = [RECORDS[0], {"article": "매우 긴 글입니다. " * 80}]

    manifest = exported.bundle.manifest
    reference = refer(exported.model, manifest, exported.tokenizer, records)
    figures, golden = parity.compare(reference, exported.ask)

    assert figures["prompts"] == 2
    assert list(reference.golden.values()) == [RECORDS[0]]
    assert len(golden) == 1


class TestRefusals:
    def built(self, name, **config):
        source = lk.scratch(name, **config)
        return load_model(source, family=Family.SEQ2SEQ, tokenizer=small_tokenizer()).model

    def test_an_architecture_that_was_never_tried(self):
        model = self.built("blenderbot-small", **MODELS["bart"].config)

        with pytest.raises(ExportError, match=r"Blenderbot.* is none of the architectures .*t5"):
            check(model)

    def test_a_pair_of_other_models(self):
        pair = MODELS["bert and bert"].config
        decoder = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}
        model = self.built("encoder-decoder", encoder=pair["encoder"], decoder=decoder)

        with pytest.raises(ExportError, match=r"pairs models of other kinds than BERT \(gpt2\)"):
            check(model)

    @pytest.mark.parametrize("name", ["t5", "bart", "bert and bert"])
    def test_heads_of_a_size_that_the_operator_does_not_take(self, name):
        config = dict(MODELS[name].config)
        if name == "t5":
            config["d_kv"] = 6
        elif name == "bart":
            config["decoder_attention_heads"] = 4
        else:
            config["decoder"] = {**config["decoder"], "num_attention_heads": 4}
        model = self.built(MODELS[name].model_type, **config)

        with pytest.raises(ExportError, match=r"has heads of [46] numbers"):
            check(model)

    def test_a_t5_whose_decoder_is_deeper_than_its_encoder(self):
        """transformers itself cannot write with it, so there is nothing to compare with."""
        sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16}
        model = self.built("t5", **sizes, num_layers=1, num_decoder_layers=2)
        with pytest.raises(IndexError):
            model.generate(torch.tensor([[3, 1]]), decoder_start_token_id=0, max_new_tokens=2)

        with pytest.raises(ExportError, match="2 layers in its decoder and 1 in its encoder"):
            check(model)

    def test_a_causal_model(self):
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=300)
        )

        with pytest.raises(ExportError, match=r"GPT2LMHeadModel .* has no encoder and decoder"):
            check(model)

    def test_a_graph_that_writes_something_else(self, tmp_path, monkeypatch):
        """T5 without the bias of its own tokens' distances, which one token alone does not show."""
        attend = cross_attention.StepAttention._over_own

        def unbiased(self, query, handed, options):
            return attend(self, query, handed, {**options, "position_bias": None})

        monkeypatch.setattr(cross_attention.StepAttention, "_over_own", unbiased)

        with pytest.raises(ParityError, match="a logit differs by"):
            Exported("t5", tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
