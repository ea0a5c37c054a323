"""Models are found with their tokenizers, on disk and in memory."""

import json

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import lmkit as lk
from lmkit.chat import CHATML
from lmkit.errors import ModelError, TokenizerError
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer
from lmkit.train.lengths import context_length
from lmkit.train.models import load_model

END = "<|endoftext|>"


def load(source, **options):
    return load_model(source, family=Family.CAUSAL, **options)


class TestFromDisk:
    def test_a_folder_brings_its_own_tokenizer(self, padded, tokenizer):
        assert load(str(padded)).tokenizer.fingerprint == tokenizer.fingerprint

    def test_another_tokenizer_may_be_named(self, padded, without_pad):
        assert load(padded, tokenizer=without_pad).tokenizer.pad_id == without_pad.eos_id

    def test_weights_are_read_in_float32(self, padded):
        assert load(padded).model.dtype == torch.float32

    def test_a_run_can_be_trained_further(self, fit, run, tmp_path):
        again = fit(tmp_path / "again", model=run.path, tokenizer=None)

        assert Tokenizer.load(again.path).fingerprint == Tokenizer.load(run.path).fingerprint

    def test_a_loaded_model_needs_its_tokenizer(self, padded):
        model = transformers.AutoModelForCausalLM.from_pretrained(padded)

        with pytest.raises(TokenizerError, match="a loaded GPT2LMHeadModel needs its tokenizer"):
            load(model)

    def test_what_is_no_model_is_refused(self):
        with pytest.raises(ModelError, match="a int is not a transformers model"):
            load(3)

    @pytest.mark.parametrize("source", ["./gone", "/gone/model"])
    def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(self, source):
        with pytest.raises(ModelError, match=f"there is no model folder '{source}'"):
            load(source)

    def test_a_folder_without_a_config_is_no_model(self, tmp_path):
        with pytest.raises(ModelError, match=r"is not a model folder: it has no config\.json"):
            load(tmp_path)

    def test_a_damaged_folder_is_a_users_error(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        (tmp_path / "model.safetensors").write_bytes(b"half")

        with pytest.raises(ModelError, match="cannot be loaded"):
            load(tmp_path)

    def test_a_model_without_the_familys_head_is_refused(self, padded):
        with pytest.raises(
            ModelError, match=r"as a masked model: transformers knows no such head for its [A-Z]"
        ) as caught:
            load_model(padded, family=Family.MASKED)
        assert len(str(caught.value)) < 400  # and not every kind that has one


def test_a_model_without_some_of_its_weights_is_refused(tmp_path, padded):
    """transformers would draw them at random, and say so where nobody looks."""
    headless = transformers.GPT2Model.from_pretrained(padded)
    headless.config.n_layer = 2
    headless.save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=r"has no weights for transformer\.h\.1\..* and others"):
        load(tmp_path)


def test_the_context_is_what_the_config_says(padded):
    assert context_length(load(padded).model) == 96


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """Return a llama of a few kilobytes, written as llama.cpp's converter writes one."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [END, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "ab"]
    width, heads = 32, 2
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))  # control, then normal
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template(CHATML.replace("<|im_end|>", END))
    draw = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = {f"blk.0.{name}.weight": (width, width) for name in square}
    tensors |= {f"blk.0.{name}_norm.weight": (width,) for name in ("attn", "ffn")}
    tensors |= {"output_norm.weight": (width,), "token_embd.weight": (len(tokens), width)}
    for name, shape in tensors.items():
        writer.add_tensor(name, draw.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class TestGguf:
    def test_it_is_trained_and_saved_as_an_ordinary_run(self, fit, gguf_file, tmp_path):
        run = fit(tmp_path / "run", model=str(gguf_file), tokenizer=None)
        model = transformers.AutoModelForCausalLM.from_pretrained(run)

        assert model.config.model_type == "llama"
        assert "quantization_config" not in model.config.to_dict()
        assert lk.evaluate(run, data=[{"prompt": "a", "completion": "b"}])["tokens"] == 3

    def test_it_is_read_in_silence(self, gguf_file, capfd):
        load(gguf_file)

        assert capfd.readouterr().err == ""

    def test_its_weights_are_the_files(self, gguf_file):
        import gguf

        stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(gguf_file).tensors}
        model = load(gguf_file).model

        np.testing.assert_array_equal(
            model.get_input_embeddings().weight.detach().numpy(), stored["token_embd.weight"]
        )

    def test_a_file_that_is_not_there_is_named(self):
        with pytest.raises(ModelError, match=r"there is no file 'gone\.gguf'"):
            load("gone.gguf")

    def test_a_damaged_file_is_a_users_error(self, tmp_path):
        (tmp_path / "bad.gguf").write_bytes(b"GGUF?")

        with pytest.raises(ModelError, match="cannot be loaded"):
            load(tmp_path / "bad.gguf")
