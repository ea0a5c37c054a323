"""Model, tokenizer and tasks agree on what pads a row, what ends a text and what starts one."""

import pytest
import torch
import transformers

import lmkit as lk
from lmkit.chat import CHATML
from lmkit.encoding import IGNORE
from lmkit.errors import TokenizerError
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer
from lmkit.train.models import load_model
from lmkit.train.special import align, with_pad

END = "<|endoftext|>"
CHAT = [{"messages": [{"role": "user", "content": "수"}, {"role": "assistant", "content": "하나"}]}]


def load(source, **options):
    return load_model(source, family=Family.CAUSAL, **options)


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


def test_a_run_uses_its_cache_again_after_training(trained):
    assert transformers.AutoConfig.from_pretrained(trained).use_cache
