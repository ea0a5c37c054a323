"""Masked models of each kind become graphs whose logits are torch's, in any batch."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import wordpiece

import lmkit as lk
from lmkit.errors import ExportError, ParityError
from lmkit.export import masked
from lmkit.saving.manifest import read_manifest
from lmkit.train.answering import masked_logits, through_torch

TASK = lk.get_task("mlm")
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 17}
SMALL |= {"num_attention_heads": 2, "max_position_embeddings": 40, "initializer_range": 0.3}
CONFIGS = {
    "bert": SMALL,
    "albert": {**SMALL, "embedding_size": 8},
    "roberta": SMALL,
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 17},
    "electra": {**SMALL, "embedding_size": 8},
}
DATA = [{"text": "영화는 정말 좋았다!"}, {"text": "a good film, good films"}, {"text": "films"}]


def compared(model, filler, records):
    """Return the figures, the fills of the golden prompts, and these prompts' records."""
    manifest = SimpleNamespace(task=filler.task, graph=filler)
    reference = masked.refer(model, manifest, filler.tokenizer, records)
    return *masked.compare(reference, filler), list(reference.golden.values())


def built(kind):
    """Return a model of a kind with random weights."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, pad_token_id=0, **CONFIGS[kind])
    model = AutoModelForMaskedLM.from_config(config).eval()
    # A fresh model has no biases and no idea of positions; give it some of both.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "position" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Return a function that gives a kind's model and bundle, made once."""
    made = {}

    def bundle(kind):
        if kind not in made:
            model = built(kind)
            output = tmp_path_factory.mktemp(kind) / "bundle"
            lk.export(model, task=TASK, tokenizer=wordpiece(), output=output, data=DATA)
            made[kind] = model, output
        return made[kind]

    return bundle


@pytest.mark.slow
class TestABundle:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_has_torch_s_logits_alone_and_padded(self, kind, bundles):
        model, folder = bundles(kind)
        fill = lk.load(folder, threads=1)
        rng = np.random.default_rng(0)
        rows = [rng.integers(5, 17, size=length) for length in (1, 7, 3, 12)]
        padded = dict(fill.logits(rows, batch_size=4))

        for index, row in enumerate(rows):
            theirs = masked_logits(model, row[None], np.ones_like(row)[None])[0]
            ((_, single),) = fill.logits([row], batch_size=1)
            np.testing.assert_allclose(single, theirs, atol=2e-4)
            np.testing.assert_allclose(padded[index], theirs, atol=2e-4)

    @pytest.mark.parametrize("kind", ["bert", "albert"])
    def test_says_what_was_compared_and_measured(self, kind, bundles):
        manifest = read_manifest(bundles(kind)[1])
        figures = manifest.precisions["fp32"]

        assert figures.parity["fills_equal"]
        assert figures.parity["fills_compared"] == 8
        assert figures.parity["max_logit_difference"] < 1e-3
        assert figures.perplexity["tokens"] > 0
        assert len(manifest.golden) == 4
        assert all("[MASK]" in golden.record["text"] for golden in manifest.golden)
        assert manifest.tokens.eos is None

    def test_fuses_every_layer_s_attention(self, bundles):
        import onnx

        graph = onnx.load(bundles("bert")[1] / "model.onnx", load_external_data=False).graph
        kinds = [node.op_type for node in graph.node]

        assert kinds.count("MultiHeadAttention") == 2
        assert kinds.count("BiasGelu") == 3
        assert "Softmax" not in kinds
        assert "Erf" not in kinds

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_reckons_the_logits_of_marked_tokens_alone(self, kind, bundles):
        fill = lk.load(bundles(kind)[1], threads=1)
        rows = [np.array([5, 6, 7, 8, 9]), np.array([10, 11]), np.array([12, 13, 14])]
        marks = [row % 3 == 0 for row in rows]  # two, none and one

        whole = dict(fill.logits(rows, batch_size=3))
        some = dict(fill.logits(rows, batch_size=3, marks=marks))

        assert fill.picks
        for index, logits in some.items():
            np.testing.assert_allclose(logits, whole[index][marks[index]], atol=1e-5)

    def test_runs_its_head_and_last_layer_behind_the_choice_of_tokens(self, bundles):
        import onnx

        graph = onnx.load(bundles("bert")[1] / "model.onnx", load_external_data=False).graph
        kinds = [node.op_type for node in graph.node]
        behind = kinds[len(kinds) - kinds[::-1].index("GatherND") :]

        # Two of the last layer's, two of the head's.
        assert behind.count("MatMul") + behind.count("FusedMatMul") == 4

    def test_stores_weights_that_layers_share_once(self, bundles):
        model, folder = bundles("albert")
        size = sum(parameter.numel() for parameter in model.parameters()) * 4

        # 12 kilobytes of weights; a second layer's would be 6 more.
        assert (folder / "model.onnx.data").stat().st_size < size * 1.3

    def test_counts_positions_as_roberta_does(self, bundles):
        """RoBERTa's first position is behind the pad token's id, so its context is that shorter."""
        model, folder = bundles("roberta")
        fill = lk.load(folder, threads=1)

        assert fill.context_length == 39
        row = np.full(39, 7)
        theirs = masked_logits(model, row[None], np.ones_like(row)[None])[0]
        ((_, ours),) = fill.logits([row], batch_size=1)
        np.testing.assert_allclose(ours, theirs, atol=2e-4)

    def test_card_says_how_to_ask_it(self, bundles):
        card = (bundles("bert")[1] / "README.md").read_text("utf-8")

        assert "--set text='... [MASK] ...'\n" in card
        assert "one padded batch" in card
        assert "Greedy" not in card


class TestARefusal:
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("gpt2", "does not let every token see all others"),
            ("t5", "is an encoder-decoder"),
            ("deberta-v2", "computes its attention in code of its own"),
        ],
    )
    def test_names_the_architecture_and_the_reason(self, kind, reason):
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForMaskedLM,
            AutoModelForSeq2SeqLM,
        )

        sizes = {"gpt2": {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 17}}
        sizes["t5"] = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "vocab_size": 17}
        head = {"gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}
        config = AutoConfig.for_model(kind, **sizes.get(kind, SMALL))
        model = head.get(kind, AutoModelForMaskedLM).from_config(config)

        with pytest.raises(ExportError, match=f"{type(model).__name__} cannot be .*{reason}"):
            masked.check(model)

    def test_of_logits_that_differ_has_the_figures(self):
        model = built("bert")
        filler = through_torch(TASK, model, wordpiece())
        other = built("bert")
        with torch.no_grad():
            other.cls.predictions.bias.add_(0.01)

        with pytest.raises(ParityError, match=r"a single prompt: a logit differs by 1.0\de-02"):
            compared(other, filler, [{"text": "a [MASK]"}])


def test_golden_fills_are_those_that_lead_clearly():
    model = built("bert")
    filler = through_torch(TASK, model, wordpiece())
    record = {"text": "a [MASK] [MASK]"}
    figures, golden, records = compared(model, filler, [record])

    assert figures["fills_compared"] == 4
    assert json.loads(json.dumps(records)) == [record]
    assert list(golden[0]) == list(filler(record).token_ids)


@pytest.mark.slow
def test_the_real_albert_fills_as_the_pipeline_does(shared, tmp_path):
    from transformers import pipeline

    folder = shared / "models" / "rxnmapper-albert-smiles-mlm"
    fill = lk.load(lk.export(folder, task="mlm", output=tmp_path / "albert"), threads=1)
    ask = pipeline("fill-mask", model=str(folder), device="cpu")
    texts = [
        "CC(=O)O[MASK]1ccccc1",
        "CC(=O)Oc1ccccc1C(=O)[MASK]",
        "C[MASK](N)C(=O)O",
        "[MASK]1ccccc1Br>>Oc1cc[MASK]cc1",
        "CC(=O)[MASK].OCC>>CC(=O)OC[MASK]",
    ]

    for text, answer in zip(texts, fill.batch([{"text": t} for t in texts]), strict=True):
        theirs, ours = ask(text), answer.value
        if isinstance(theirs[0], dict):
            theirs, ours = [theirs], [ours]
        for some, others in zip(ours, theirs, strict=True):
            for one, other in zip(some, others, strict=True):
                assert one["score"] == pytest.approx(other["score"], abs=1e-5)
                assert {**one, "score": 0} == {**other, "score": 0}


def test_a_prompt_longer_than_the_model_is_cut_around_its_mask_and_is_not_golden():
    model = built("bert")
    filler = through_torch(TASK, model, wordpiece())
    records = [{"text": "a " * 80 + "[MASK]" + " a" * 5}, {"text": "a [MASK]"}]
    figures, _, golden = compared(model, filler, records)

    assert (figures["prompts"], figures["fills_compared"]) == (2, 4)
    assert golden == records[1:]
