import json

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import lmkit as lk
from lmkit.chat import CHATML
from lmkit.encoding import IGNORE
from lmkit.errors import ModelError, TokenizerError, UnknownName, UnknownOption
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer
from lmkit.train.lengths import context_length
from lmkit.train.models import load_model
from lmkit.train.special import align, with_pad

END = "<|endoftext|>"
CHAT = [{"messages": [{"role": "user", "content": "수"}, {"role": "assistant", "content": "하나"}]}]


def load(source, **options):
    return load_model(source, family=Family.CAUSAL, **options)


@pytest.fixture(scope="module")
def without_pad(tokenizer):
    """Return a tokenizer as GPT-2's: an EOS, and no pad token."""
    special = {role: text for role, text in tokenizer.special.items() if role != "pad_token"}
    return Tokenizer(tokenizer.definition, special=special, chat_template=tokenizer.chat_template)


@pytest.fixture(scope="module")
def padded(tmp_path_factory, tokenizer, tiny):
    """Return a model folder whose vocabulary was rounded up to 64 rows."""
    folder = tmp_path_factory.mktemp("padded")
    config = transformers.GPT2Config(**tiny.config, vocab_size=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


class TestPadding:
    def test_without_a_pad_token_the_eos_is_reused_and_stays_learned(
        self, fit, tmp_path, without_pad
    ):
        run = fit(tmp_path / "run", tokenizer=without_pad)
        ready = Tokenizer.load(run.path)
        row = lk.encode(run.task, [{"prompt": "수", "completion": "수"}], ready)[0]

        assert ready.pad_id == ready.eos_id == row.labels[-1]
        assert ready.vocab_size == without_pad.vocab_size

    def test_a_reused_eos_is_learned_in_the_padded_batch_as_well(self, without_pad):
        """The trap: labels masked by id, so that the model never learns to stop."""
        ready = with_pad(without_pad, None)
        task = lk.get_task("qa")
        rows = lk.encode(
            task, [{"prompt": "수", "completion": text} for text in ("수", "수수수수")], ready
        )

        batch = task.collator.collate(rows, ready.pad_id)

        assert (batch["labels"] == ready.eos_id).sum(axis=1).tolist() == [1, 1]
        assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE).all()

    def test_a_pad_token_that_is_there_is_kept(self, tokenizer):
        assert with_pad(tokenizer, None) is tokenizer

    def test_a_new_one_is_added_and_the_embeddings_grow(self, fit, tmp_path, tiny, tokenizer):
        config = transformers.GPT2Config(**tiny.config, vocab_size=tokenizer.vocab_size)
        model = transformers.GPT2LMHeadModel(config)
        before = model.get_input_embeddings().weight.detach().clone()

        run = fit(tmp_path / "run", model=model, pad="[PAD]", learning_rate=1e-12)
        saved = transformers.AutoModelForCausalLM.from_pretrained(run)

        ready = Tokenizer.load(run.path)
        assert ready.special["pad_token"] == "[PAD]"
        assert ready.pad_id == tokenizer.vocab_size == saved.config.pad_token_id
        assert saved.config.vocab_size == tokenizer.vocab_size + 1
        grown = saved.get_input_embeddings().weight
        torch.testing.assert_close(grown[: len(before)], before, rtol=0, atol=1e-6)

    def test_the_new_row_is_drawn_from_the_seed(self, tiny, tokenizer):
        """It takes part in the softmax, so without this two runs of one seed would differ."""

        def last_row(seed):
            config = transformers.GPT2Config(**tiny.config, vocab_size=tokenizer.vocab_size)
            model = transformers.GPT2LMHeadModel(config)
            loaded = load(model, tokenizer=tokenizer, pad="[PAD]", seed=seed)
            return loaded.model.get_input_embeddings().weight[-1]

        assert torch.equal(last_row(1), last_row(1))
        assert not torch.equal(last_row(1), last_row(2))

    @pytest.mark.parametrize("pad", [None, "[PAD]"])
    def test_a_padded_vocabulary_is_never_shrunk(self, padded, pad):
        assert load(padded, pad=pad).model.get_input_embeddings().weight.shape[0] == 64

    def test_without_pad_and_eos_the_error_says_what_to_give(self, tokenizer):
        bare = Tokenizer(tokenizer.definition)

        with pytest.raises(TokenizerError, match=r"neither a pad nor an EOS .*pad='\[PAD\]'"):
            with_pad(bare, None)


@pytest.fixture(scope="module", params=["qa", "chat"])
def trained(request, fit, tmp_path_factory):
    chat = {"task": "chat", "data": CHAT * 4} if request.param == "chat" else {}
    return fit(tmp_path_factory.mktemp(request.param) / "run", **chat)


class TestSpecialTokensAgree:
    def test_between_tokenizer_config_and_generation_config(self, trained):
        model = transformers.AutoModelForCausalLM.from_pretrained(trained)
        own = transformers.AutoTokenizer.from_pretrained(trained)
        ends = model.generation_config.eos_token_id

        assert own.eos_token_id == model.config.eos_token_id
        assert own.eos_token_id == (ends[0] if isinstance(ends, list) else ends)
        assert own.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
        assert own.bos_token_id == model.config.bos_token_id == model.generation_config.bos_token_id

    def test_and_transformers_reads_and_writes_the_same_ids(self, trained):
        own = transformers.AutoTokenizer.from_pretrained(trained)
        ours = Tokenizer.load(trained.path)

        for text in ("좋은 수입니다.", "수 \n수", "漢"):
            ids = ours.encode(text)
            assert own(text, add_special_tokens=False).input_ids == ids
            assert own.decode(ids, skip_special_tokens=True) == ours.decode(ids)

    def test_a_template_that_ends_turns_otherwise_decides_the_eos(self, fit, tmp_path, tokenizer):
        """The model learns to write <|im_end|>; if only <|endoftext|> stopped it, it would not stop."""
        run = fit(tmp_path / "run", task="chat", data=CHAT * 4)
        model = transformers.AutoModelForCausalLM.from_pretrained(run)
        ready = Tokenizer.load(run.path)
        turn_end, text_end = (ready.token_to_id(token) for token in ("<|im_end|>", END))
        row = lk.encode(run.task, CHAT, ready)[0]

        assert ready.special["eos_token"] == "<|im_end|>"
        assert model.generation_config.eos_token_id == [turn_end, text_end]
        assert row.labels[row.labels != IGNORE][-1] == turn_end

    def test_a_template_that_the_task_brings_is_in_the_run(self, fit, tmp_path, tokenizer):
        bare = Tokenizer(tokenizer.definition, special=tokenizer.special)
        task = lk.get_task("chat").evolve(formatter=lk.Chat(template="chatml"))

        run = fit(tmp_path / "run", task=task, data=CHAT * 4, tokenizer=bare)

        assert transformers.AutoTokenizer.from_pretrained(run).chat_template == CHATML

    def test_a_plain_task_leaves_the_eos_as_it_is(self, tokenizer, tiny):
        loaded = load(tiny, tokenizer=tokenizer)

        ready, stops = align(loaded.model, loaded.tokenizer, lk.get_task("qa").formatter)

        assert stops == [tokenizer.eos_id]
        assert ready.fingerprint == tokenizer.fingerprint


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


def test_a_run_uses_its_cache_again_after_training(trained):
    assert transformers.AutoConfig.from_pretrained(trained).use_cache


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
