"""An adapter in a bundle answers as peft does: a LoRA in the weights, a soft prompt before the prompt."""

import json
import shutil
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

from encoderdecoders import MODELS, RECORDS, small_tokenizer, stirred  # noqa: E402
from exported import CONTEXT_LENGTH, GPT2, ROWS, train_tiny  # noqa: E402
from toys import wordpiece  # noqa: E402

import lmkit as lk  # noqa: E402
from lmkit.answering import open_answerer  # noqa: E402
from lmkit.encoding import prompt_ids  # noqa: E402
from lmkit.errors import ParityError  # noqa: E402
from lmkit.export import causal, merging  # noqa: E402
from lmkit.family import Family  # noqa: E402
from lmkit.runtime.opening import verify  # noqa: E402
from lmkit.saving.manifest import read_manifest  # noqa: E402
from lmkit.train import adapting  # noqa: E402
from lmkit.train.folder import save_model  # noqa: E402
from lmkit.train.models import load_model  # noqa: E402
from lmkit.train.quiet import quiet  # noqa: E402
from lmkit.train.special import align  # noqa: E402

pytestmark = pytest.mark.slow

N_VIRTUAL = 6
SOFT = f"prompt_tuning:num_virtual_tokens={N_VIRTUAL},init_text=안녕하세요? 오늘"
TURNED = [{**row, "completion": row["completion"][::-1]} for row in ROWS[:4]]
PROMPTS = ["안녕하세요?", "Who are you?", "What is 2+2? " * 4, "네"]


def tune(base, output, adapter):
    """Teach a trained model other answers than its own, so that the adapter is not idle."""
    return lk.train(
        "qa", model=base, data=TURNED, output=output, adapter=adapter, max_steps=12,
        learning_rate=5e-2, save_strategy="no", use_cpu=True, logging_steps=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Return the folder of a trained GPT-2, whose positions are learned, unlike Llama's."""
    folder = tmp_path_factory.mktemp("gpt2") / "base"
    return train_tiny(folder, model=lk.scratch("gpt2", **GPT2)).path


@pytest.fixture(scope="module")
def llama(tiny_run, tmp_path_factory):
    """Return the folder of a Llama with such large weights that every token changes its mind.

    The trained one gives the same answer to everything, whatever stands before it.
    """
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("llama") / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_run)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
    model.save_pretrained(folder)
    (folder / "run.json").unlink()
    return folder


@pytest.fixture(scope="module", params=["llama-lora", "llama-soft", "gpt2-soft"])
def pair(request, tmp_path_factory):
    """Return a base, its adapter's run and that one's bundle, which tests only read."""
    base = request.getfixturevalue(request.param.partition("-")[0])
    folder = tmp_path_factory.mktemp(request.param)
    run = tune(base, folder / "run", SOFT if request.param.endswith("soft") else "lora:r=4")
    return base, run, lk.export(run, output=folder / "bundle", data=ROWS[:4])


@pytest.fixture(scope="module")
def soft_run(tiny_run, tmp_path_factory):
    return tune(tiny_run, tmp_path_factory.mktemp("soft") / "run", SOFT)


def greedy(base, run, prompt, count):
    """Return what peft's own `generate()` writes, the adapter beside the weights."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    ids = torch.from_numpy(prompt)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(model, str(run)).eval()
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    return found[0, len(prompt) :].tolist()


class TestTheAnswers:
    def test_are_pefts_one_by_one_and_in_a_ragged_batch(self, pair):
        base, run, bundle = pair
        ask = lk.load(bundle)
        prompts = [ask.prompt({"prompt": text}) for text in PROMPTS]
        assert len({len(prompt) for prompt in prompts}) == len(prompts)
        expected = [greedy(base, run, prompt, 12) for prompt in prompts]

        singles = [ask.greedy([prompt], 12)[0] for prompt in prompts]

        assert singles == expected
        assert ask.greedy(prompts, 12) == expected

    @pytest.mark.parametrize("chunk", [1, 7, 64])
    def test_are_pefts_behind_a_long_prompt_in_chunks(self, pair, monkeypatch, chunk):
        base, run, bundle = pair
        monkeypatch.setattr("lmkit.runtime.causal_state.CHUNK", chunk)
        ask = lk.load(bundle, verify=False)
        prompt = np.resize(ask.prompt({"prompt": PROMPTS[0]}), 90)

        assert ask.greedy([prompt], 12)[0] == greedy(base, run, prompt, 12)

    def test_are_not_the_bases(self, pair):
        base, _, bundle = pair
        ask, plain = lk.load(bundle), open_answerer(base)
        records = [{"prompt": text} for text in PROMPTS]

        changed = [answer.text for answer in ask.batch(records)]

        assert changed != [answer.text for answer in plain.batch(records)]

    def test_are_scored_as_the_run_is(self, pair):
        _, run, bundle = pair

        found, expected = lk.evaluate(bundle, data=ROWS[:7]), lk.evaluate(run, data=ROWS[:7])

        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found["tokens"] == expected["tokens"]


class TestTheBundle:
    def test_is_whole_and_says_what_became_of_the_adapter(self, pair):
        _, _, bundle = pair
        manifest = bundle.manifest

        assert verify(bundle.path)
        parity = manifest.precisions["fp32"].parity
        assert parity["greedy_tokens_equal"]
        assert parity["max_logit_difference"] < 1e-3
        if manifest.model["adapter"]["kind"] == "lora":
            assert manifest.model["adapter"]["merge_max_logit_difference"] < 1e-4
            assert manifest.graph.prefix is None
            assert manifest.graph.context_length == CONTEXT_LENGTH
        else:
            assert manifest.model["adapter"]["virtual_tokens"] == N_VIRTUAL
            assert manifest.graph.prefix.n_tokens == N_VIRTUAL
            assert manifest.graph.context_length == CONTEXT_LENGTH - N_VIRTUAL

    def test_with_a_soft_prompt_has_it_as_plain_numbers_and_is_not_for_genai(self, pair):
        """genai would answer without the prompt and say nothing, so it finds no configuration."""
        _, _, bundle = pair
        files = set(read_manifest(bundle.path).files)
        genai = bundle.manifest.genai
        if bundle.manifest.graph.prefix is None:
            assert "genai_config.json" in files
            assert "prefix.npy" not in files
            return

        prefix = np.load(bundle.path / "prefix.npy", allow_pickle=False)

        graph = bundle.manifest.graph
        shape = (graph.n_layers, 2, graph.n_kv_heads, N_VIRTUAL, graph.head_size)
        assert (prefix.shape, prefix.dtype) == (shape, np.float32)
        assert "prefix.npy" in files
        assert "genai_config.json" not in files
        assert genai["loads"] is False
        assert "soft prompt" in genai["reason"]

    def test_says_the_architecture_and_the_size_of_the_model_itself(self, pair):
        base, run, bundle = pair
        config = json.loads((base / "config.json").read_text("utf-8"))
        plain = transformers.AutoModelForCausalLM.from_pretrained(base)
        soft = bundle.manifest.graph.prefix is not None

        assert bundle.manifest.model["architecture"] == config["architectures"][0]
        added = run.parameters["trainable"] if soft else 0
        assert bundle.manifest.model["parameters"] == plain.num_parameters() + added

    def test_needs_no_base_any_more(self, tiny_run, tmp_path, quick):
        base = shutil.copytree(tiny_run, tmp_path / "base")
        run = tune(base, tmp_path / "run", SOFT)
        bundle = lk.export(run, output=tmp_path / "bundle", data=ROWS[:4])
        shutil.rmtree(base)
        shutil.rmtree(run)

        assert lk.load(bundle)({"prompt": PROMPTS[0]}).token_ids


class TestRefused:
    @pytest.mark.parametrize("change", [0.5, np.nan])
    def test_a_merge_that_changes_the_logits(self, tiny_run, tmp_path, monkeypatch, change):
        run = tune(tiny_run, tmp_path / "run", "lora:r=4")

        def wrong(model):
            whole = adapting.merged(model)
            with torch.no_grad():
                whole.lm_head.weight[3] += change
            return whole

        monkeypatch.setattr(merging, "merged", wrong)

        with pytest.raises(
            ParityError, match=r"merging the adapter .* changes a logit by .*explain"
        ):
            lk.export(run, output=tmp_path / "out", data=ROWS[:4])

        assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("part", [0, 1], ids=["a key", "a value"])
    def test_a_prefix_that_is_not_the_soft_prompts(self, soft_run, tmp_path, monkeypatch, part):
        prefix_of = adapting.key_value_prefix

        def wrong(model):
            prefix = prefix_of(model)
            prefix[0, part, 0, 2] += 1.0
            return prefix

        monkeypatch.setattr(causal, "key_value_prefix", wrong)

        with pytest.raises(ParityError, match=r"differs by .* no bundle was written"):
            lk.export(soft_run, output=tmp_path / "out", data=ROWS[:4])

        assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("quick")
    def test_a_prefix_that_is_left_out(self, soft_run, tmp_path, monkeypatch):
        """Parity's torch side is peft's, so a bundle of the base alone does not pass."""
        monkeypatch.setattr(causal, "is_soft_prompt", lambda model: False)

        with pytest.raises(ParityError):
            lk.export(soft_run, output=tmp_path / "out", data=ROWS[:4])


def test_the_prefix_is_what_peft_leaves_in_the_cache(soft_run, tiny_run):
    """The reference reads virtual tokens and prompt together; the first places are the prefix."""
    ask = open_answerer(soft_run)
    ids = torch.from_numpy(prompt_ids(ask.task, {"prompt": "네"}, ask.tokenizer))[None]
    with torch.no_grad():
        cache = ask.model(input_ids=ids, use_cache=True).past_key_values

    prefix = adapting.key_value_prefix(ask.model)

    assert prefix.shape[3] == N_VIRTUAL
    for layer, (keys, values) in zip(cache.layers, prefix, strict=True):
        np.testing.assert_allclose(layer.keys[0, :, :N_VIRTUAL].numpy(), keys, atol=1e-5)
        np.testing.assert_allclose(layer.values[0, :, :N_VIRTUAL].numpy(), values, atol=1e-5)


FILLS = [
    {"text": "영화는 정말 [MASK]!"},
    {"text": "a good [MASK], a [MASK] film"},
    {"text": "[MASK]"},
]
TEXTS = [{"text": "영화는 정말 좋았다!"}, {"text": "a good film, good films"}, {"text": "films"}]
BERT = lk.scratch(
    "bert", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=40, initializer_range=0.3,
)  # fmt: skip


class Pair:
    """A base of another family, a LoRA beside it that is not idle, and the bundle of both."""

    def __init__(self, folder, task, source, tokenizer, data, adapter="lora:r=4,lora_alpha=32"):
        family = lk.get_task(task).family
        loaded = load_model(source, family=family, tokenizer=tokenizer)
        model = stirred(loaded.model) if family is Family.SEQ2SEQ else loaded.model
        ready, _ = align(model, loaded.tokenizer, lk.get_task(task).formatter)
        self.base, self.data = folder / "base", data
        save_model(model, ready, self.base)
        self.run = lk.train(
            task, model=self.base, data=data, output=folder / "run", adapter=adapter, max_steps=8,
            learning_rate=5e-2, save_strategy="steps", save_steps=4, use_cpu=True, logging_steps=8,
        )  # fmt: skip
        self.bundle = lk.export(self.run, output=folder / "bundle", data=data)
        self.ask = lk.load(self.bundle)

    def theirs(self, head):
        """Return the adapted model as peft opens it, without lmkit."""
        model = head.from_pretrained(self.base)
        with quiet():
            return peft.PeftModel.from_pretrained(model, str(self.run)).eval()


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    return Pair(folder, "summarize", MODELS["t5"], small_tokenizer(), RECORDS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    adapter = "lora:r=4,lora_alpha=32,target_modules=all-linear"
    return Pair(tmp_path_factory.mktemp("bert"), "mlm", BERT, wordpiece(), TEXTS, adapter)


class TestAnEncoderDecoder:
    @pytest.mark.parametrize("beams", [1, 3])
    def test_writes_what_pefts_generate_writes(self, t5, beams):
        model = t5.theirs(transformers.AutoModelForSeq2SeqLM)
        options = {"max_new_tokens": 12, "num_beams": beams}
        expected = []
        for record in RECORDS:
            ids = torch.from_numpy(t5.ask.prompt(record))[None]
            with torch.inference_mode(), quiet():
                found = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **options
                )
            expected.append(t5.ask.tokenizer.decode(found[0, 1:].tolist()))

        answers = t5.ask.batch(RECORDS, temperature=0, **options)

        assert [answer.text for answer in answers] == expected
        plain = open_answerer(t5.base, task="summarize").batch(RECORDS, temperature=0, **options)
        assert expected != [answer.text for answer in plain]

    def test_is_scored_as_the_run_is(self, t5):
        found, run = (lk.evaluate(each, data=RECORDS) for each in (t5.bundle, t5.run))

        assert found["loss"] == pytest.approx(run["loss"], rel=1e-4)


class TestAMaskedModel:
    def test_fills_what_peft_fills(self, bert):
        model = bert.theirs(transformers.AutoModelForMaskedLM)
        plain = transformers.AutoModelForMaskedLM.from_pretrained(bert.base).eval()
        mask_id = bert.ask.tokenizer.mask_id

        for record in FILLS:
            ids = torch.from_numpy(bert.ask.prompt(record))
            places = ids == mask_id
            with torch.inference_mode():
                scores, base = (m(input_ids=ids[None]).logits[0, places] for m in (model, plain))
            best = scores.softmax(-1).max(-1)
            fills = bert.ask(record).value
            fills = fills if isinstance(fills[0], list) else [fills]

            assert [fill[0]["token"] for fill in fills] == best.indices.tolist()
            assert [fill[0]["score"] for fill in fills] == pytest.approx(
                best.values.tolist(), rel=1e-3
            )
            assert not torch.allclose(scores, base, atol=0.1)


def test_every_familys_lora_is_in_the_weights_and_not_beside_them(t5, bert):
    for pair, head in (
        (t5, transformers.AutoModelForSeq2SeqLM),
        (bert, transformers.AutoModelForMaskedLM),
    ):
        about = pair.bundle.manifest.model
        assert about["adapter"]["kind"] == "lora"
        assert about["adapter"]["merge_max_logit_difference"] < 1e-3
        assert about["parameters"] == head.from_pretrained(pair.base).num_parameters()


def test_every_familys_checkpoint_is_a_run_itself(t5, bert):
    for pair in (t5, bert):
        found = lk.evaluate(pair.run.path / "checkpoint-4", data=pair.data)
        assert found["tokens"] == lk.evaluate(pair.run, data=pair.data)["tokens"] > 0
