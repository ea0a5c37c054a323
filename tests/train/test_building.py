"""Models are built from a config with random weights, to fit their tokenizer."""

import pytest
import torch

import lmkit as lk
from lmkit.errors import ModelError, TokenizerError, UnknownName, UnknownOption
from lmkit.family import Family
from lmkit.train.models import load_model


def load(source, **options):
    return load_model(source, family=Family.CAUSAL, **options)


class TestFromScratch:
    def test_the_vocabulary_is_the_tokenizers(self, tiny, tokenizer):
        assert load(tiny, tokenizer=tokenizer).model.config.vocab_size == tokenizer.vocab_size

    def test_its_text_form_means_the_same(self, tiny, tokenizer):
        assert load(str(tiny), tokenizer=tokenizer).model.config.n_embd == tiny.config["n_embd"]

    def test_the_seed_decides_the_weights_and_the_callers_state_is_kept(self, tiny, tokenizer):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)

        first, again, other = (
            load(tiny, tokenizer=tokenizer, seed=seed).model.lm_head.weight for seed in (1, 1, 2)
        )

        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.rand(1), expected)

    def test_any_architecture_can_be_built(self, tokenizer):
        tiny = lk.scratch(
            "llama",
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )

        assert load(tiny, tokenizer=tokenizer).model.config.model_type == "llama"

    def test_an_unknown_config_key_is_refused_with_the_near_one(self, tokenizer):
        with pytest.raises(
            UnknownOption, match=r"option of the gpt2 config .*'n_layers'\n.*n_layer"
        ):
            load(lk.scratch("gpt2", n_layers=2), tokenizer=tokenizer)

    @pytest.mark.parametrize("name", ["n_layer", "num_hidden_layers"])
    def test_a_key_may_have_either_of_its_names(self, tokenizer, name):
        model = load(
            lk.scratch("gpt2", n_embd=16, n_head=2, **{name: 1}), tokenizer=tokenizer
        ).model

        assert len(model.transformer.h) == 1

    def test_an_unknown_model_type_is_refused_with_the_near_one(self, tokenizer):
        with pytest.raises(UnknownName, match=r"no model type named 'gtp2'\n  close to: .*gpt2"):
            load(lk.scratch("gtp2"), tokenizer=tokenizer)

    def test_sizes_that_do_not_fit_together_are_a_users_error(self, tokenizer):
        with pytest.raises(ModelError, match="cannot be built"):
            load(lk.scratch("gpt2", n_embd=15, n_head=2), tokenizer=tokenizer)

    def test_a_model_type_without_a_causal_head_is_a_users_error(self, tokenizer):
        with pytest.raises(ModelError, match="cannot be built"):
            load(lk.scratch("vit"), tokenizer=tokenizer)

    def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(self, tiny, tokenizer):
        small = lk.scratch("gpt2", **tiny.config, vocab_size=8)

        with pytest.raises(ModelError, match="has room for 8 tokens and the tokenizer has"):
            load(small, tokenizer=tokenizer)

    def test_without_a_tokenizer_the_error_says_how_to_get_one(self, tiny):
        with pytest.raises(TokenizerError, match="train_tokenizer"):
            load(tiny)
