"""Beam search against transformers' `generate()`, token for token, on tiny models of both kinds."""

import attrs
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_outputs import BaseModelOutput  # noqa: E402

from lmkit.generation import Generation  # noqa: E402
from lmkit.runtime.beams import BeamSearch, search  # noqa: E402

PAD, EOS = 0, 1
MOST = 10
PENALTIES = (-1.0, 0.0, 0.5, 1.0, 2.0)
ENDINGS = (False, True, "never")


class TorchState:
    """A state over a transformers model: its cache, and for T5 what the encoder made."""

    def __init__(self, model, ids, encoded=None):
        self._model, self._encoded, self._cache = model, encoded, None
        self.logits = self._run(ids)

    def step(self, tokens):
        return self._run(torch.tensor(tokens)[:, None])

    def reorder(self, rows):
        index = torch.tensor(rows)
        self._cache.reorder_cache(index)
        if self._encoded is not None:
            self._encoded = self._encoded.index_select(0, index)

    def close(self):
        self._cache = None

    @torch.no_grad()
    def _run(self, ids):
        given = {"input_ids": ids}
        if self._encoded is not None:
            encoded = BaseModelOutput(last_hidden_state=self._encoded)
            given = {"decoder_input_ids": ids, "encoder_outputs": encoded}
        made = self._model(**given, past_key_values=self._cache, use_cache=True)
        self._cache = made.past_key_values
        return made.logits[:, -1].numpy()


class TorchSession:
    """A session over a transformers model, for prompts of one length."""

    def __init__(self, model):
        self.model = model

    def history(self, prompt):
        if not self.model.config.is_encoder_decoder:
            return prompt
        return np.array([self.model.config.decoder_start_token_id])

    @torch.no_grad()
    def begin(self, prompts, limits):
        ids = torch.tensor(np.stack(prompts))
        if self.model.config.is_encoder_decoder:
            start = torch.tensor(np.stack([self.history(prompt) for prompt in prompts]))
            state = TorchState(self.model, start, self.model.encoder(ids).last_hidden_state)
        else:
            state = TorchState(self.model, ids)
        return state, state.logits


def ours(model, prompts, stop_ids=(EOS,), ends=None, **options):
    session = TorchSession(model)
    generation = Generation(**options)
    searches = [
        BeamSearch(
            generation,
            source=prompt,
            history=session.history(prompt),
            limit=generation.max_new_tokens,
            stop_ids=stop_ids,
            ends=ends,
        )
        for prompt in prompts
    ]
    search(session, prompts, searches)
    return [one.best for one in searches]


def theirs(model, prompts, stop_ids=(EOS,), criteria=None, **options):
    """Return the new ids of each prompt, up to its end token."""
    wanted = {
        name: given
        for name, given in attrs.asdict(Generation(**options)).items()
        if name not in ("stop", "seed", "temperature", "top_k", "top_p", "min_p")
    }
    config = transformers.GenerationConfig(
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=PAD,
        decoder_start_token_id=PAD,
        **{**wanted, "min_new_tokens": wanted["min_new_tokens"] or None},
    )
    ids = torch.tensor(np.stack(prompts))
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        stopping_criteria=criteria or [],
    )
    start = 1 if model.config.is_encoder_decoder else ids.shape[1]
    answers = []
    for row in found[:, start:].tolist():
        end = next((place for place, token in enumerate(row) if token in stop_ids), MOST)
        answers.append(row[: end + 1])
    return answers


def prompts_for(model, count, length=5, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(2, model.config.vocab_size, (count, length)))


def made(kind, *, vocab_size=24, seed=0, spread=3.0):
    """Return a tiny model whose logits lie far apart, so that rounding decides nothing."""
    torch.manual_seed(seed)
    shared = {"vocab_size": vocab_size, "pad_token_id": PAD, "eos_token_id": EOS}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_layer=1, n_embd=16, n_head=2, n_positions=64, bos_token_id=EOS, **shared
        )
    elif kind == "llama":
        config = transformers.LlamaConfig(
            num_hidden_layers=1,
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **shared,
        )
    else:
        config = transformers.T5Config(
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=PAD,
            tie_word_embeddings=False,
            **shared,
        )
    class_ = (
        transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    )
    model = class_.from_config(config).eval()
    model.generation_config = transformers.GenerationConfig()  # or its end token would leak in
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.5)
        head = model.get_output_embeddings().weight
        head.copy_(torch.randn_like(head) * spread / 4)
    return model


@pytest.fixture(scope="module", params=["gpt2", "llama", "t5"])
def model(request):
    return made(request.param)


@pytest.mark.parametrize("early_stopping", ENDINGS)
@pytest.mark.parametrize("num_beams", [2, 3, 4])
def test_beams_equal_generates_whatever_a_text_scores(model, num_beams, early_stopping):
    for seed, length_penalty in enumerate(PENALTIES):
        options = {
            "max_new_tokens": MOST,
            "num_beams": num_beams,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
        }
        prompts = prompts_for(model, 3, seed=seed)

        assert ours(model, prompts, **options) == theirs(model, prompts, **options)


STEERED = [
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.4, "min_new_tokens": 4},
    {"repetition_penalty": 0.7, "no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 1},
    {"forced_bos_token_id": 5, "forced_eos_token_id": EOS},
    {"forced_eos_token_id": 7, "min_new_tokens": MOST, "max_new_tokens": MOST},
    {"suppress_tokens": (2, 5), "min_new_tokens": 2},
    {"max_new_tokens": 1},
]


@pytest.mark.parametrize("steered", STEERED, ids=lambda steered: "-".join(steered))
def test_beams_equal_generates_under_every_option(model, steered):
    for seed, stop_ids in enumerate([(EOS,), (EOS, 3, 4), ()]):
        options = {"max_new_tokens": MOST, "num_beams": 3, **steered}
        prompts = prompts_for(model, 2, seed=seed)

        found = ours(model, prompts, stop_ids, **options)

        assert found == theirs(model, prompts, stop_ids, **options)
        if "forced_eos_token_id" in steered:
            assert all(ids[-1] in (*stop_ids, steered["forced_eos_token_id"]) for ids in found)


def test_a_forced_first_token_comes_behind_a_single_one(model):
    """An encoder-decoder's answer always begins there; a causal model's only if its prompt is one id."""
    options = {"max_new_tokens": 4, "num_beams": 2, "forced_bos_token_id": 5}
    for length in (1, 3):
        prompts = prompts_for(model, 2, length=length)

        found = ours(model, prompts, **options)

        assert found == theirs(model, prompts, **options)
        if length == 1 or model.config.is_encoder_decoder:
            assert [ids[0] for ids in found] == [5, 5]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_beams_equal_generates_in_a_vocabulary_that_is_searched_in_groups(kind):
    model = made(kind, vocab_size=3000)
    options = {"max_new_tokens": MOST, "num_beams": 4, "no_repeat_ngram_size": 2}
    prompts = prompts_for(model, 2)

    assert ours(model, prompts, **options) == theirs(model, prompts, **options)


def test_a_text_that_a_stopping_criterion_ends_counts_as_whole(model):
    """What lmkit does for stop strings: here a text is whole when its last two ids are even."""
    start = 1 if model.config.is_encoder_decoder else 5

    def is_whole(ids):
        return len(ids) >= 2 and ids[-1] % 2 == ids[-2] % 2 == 0

    def criterion(input_ids, scores, **more):
        return torch.tensor([is_whole(row[start:].tolist()) for row in input_ids])

    options = {"max_new_tokens": MOST, "num_beams": 3}
    for seed in range(3):
        prompt = prompts_for(model, 1, seed=seed)

        found = ours(model, prompt, ends=is_whole, **options)

        expected = theirs(model, prompt, criteria=[criterion], **options)
        assert found[0] == expected[0][: len(found[0])]
        assert set(expected[0][len(found[0]) :]) <= {PAD, EOS}


def test_a_prompt_whose_search_has_ended_leaves_the_batch():
    model = made("t5")
    prompts = prompts_for(model, 3)
    options = {"max_new_tokens": MOST, "num_beams": 3}

    assert ours(model, prompts, **options) == [
        ours(model, [prompt], **options)[0] for prompt in prompts
    ]
