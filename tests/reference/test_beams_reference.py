"""Beam search against transformers' `generate()`, token for token, on tiny models of both kinds."""

import itertools

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
        self.reorders = 0

    def step(self, tokens):
        return self._run(torch.tensor(tokens)[:, None])

    def reorder(self, rows):
        index = torch.tensor(rows)
        self._cache.reorder_cache(index)
        if self._encoded is not None:
            self._encoded = self._encoded.index_select(0, index)
        self.reorders += 1

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
    class_ = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    model = class_.from_config(config).eval()
    model.generation_config = transformers.GenerationConfig()  # or its end token would leak in
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(0, 0.5)
        head = model.get_output_embeddings().weight
        head.copy_(torch.randn_like(head) * spread / 4)
    return model
