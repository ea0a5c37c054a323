"""Encoder-decoders are trained, scored and asked through torch as transformers does it itself."""

import attrs
import pytest
import torch
import transformers
from encoderdecoders import (
    DECODER,
    ENCODER,
    MODELS,
    RECORDS,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    bert_like,
    small_tokenizer,
    stirred,
    tokenizer_for,
)

import lmkit as lk
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import prompt_ids
from lmkit.errors import ModelError, RecordError, UnknownOption
from lmkit.family import Family
from lmkit.scratch import parse_scratch
from lmkit.tokenizing import Tokenizer
from lmkit.train.answering import TorchAnswerer
from lmkit.train.lengths import fitted
from lmkit.train.models import load_model
from lmkit.train.quiet import quiet
from lmkit.train.special import align, start_id, with_own_ids

SUMMARIZE = lk.get_task("summarize")
LONG = [*RECORDS, {"article": "매우 긴 글입니다. " * 80, "summary": "긴 요약 " * 60}]


def train(name, output, **options):
    usual = {
        "model": MODELS[name],
        "tokenizer": tokenizer_for(name),
        "data": LONG,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "use_cpu": True,
    }
    return lk.train("summarize", output=output, **{**usual, **options})


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    return train(request.param, tmp_path_factory.mktemp("run") / "run", eval_data=RECORDS)


@pytest.fixture(scope="module")
def ready():
    """Return a T5 that writes many unlike tokens, ready to answer."""
    loaded = load_model(MODELS["t5"], family=Family.SEQ2SEQ, tokenizer=small_tokenizer())
    tokenizer, _ = align(loaded.model, loaded.tokenizer, SUMMARIZE.formatter)
    return TorchAnswerer(task=SUMMARIZE, model=stirred(loaded.model), tokenizer=tokenizer)


def generated(ask, record, **options):
    """Return what `generate()` itself writes for one record."""
    prompt = prompt_ids(cutting(ask.task), record, ask.tokenizer)
    with torch.inference_mode():
        found = ask.model.generate(torch.from_numpy(prompt)[None], do_sample=False, **options)
    return found[0, 1:].tolist()


class TestARun:
    def test_is_a_model_that_transformers_reads_and_its_ids_agree(self, run):
        saved = transformers.AutoModelForSeq2SeqLM.from_pretrained(run)
        tokenizer = Tokenizer.load(run.path)

        for config in (saved.config, saved.generation_config):
            assert config.eos_token_id == tokenizer.eos_id
            assert config.pad_token_id == tokenizer.pad_id
            assert config.decoder_start_token_id is not None
        assert saved.config.decoder_start_token_id == saved.generation_config.decoder_start_token_id

    def test_has_the_perplexity_of_the_target_that_transformers_loss_gives(self, run):
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(run).eval()
        rows = lk.encode(run.task, RECORDS, run.path)
        total, count = 0.0, 0
        for row in rows:
            labels = torch.from_numpy(row.labels)[None]
            with torch.inference_mode(), quiet():
                loss = model(input_ids=torch.from_numpy(row.input_ids)[None], labels=labels).loss
            total, count = total + float(loss) * len(row.labels), count + len(row.labels)

        found = lk.evaluate(run, data=RECORDS)

        assert found["tokens"] == count
        assert found["loss"] == pytest.approx(total / count, rel=1e-5)
        assert run.metrics["eval_loss"] == pytest.approx(found["loss"], rel=1e-5)

    def test_reads_no_more_than_its_model_holds(self, run):
        collator = run.task.collator

        if "T5" in transformers.AutoConfig.from_pretrained(run).architectures[0]:
            assert collator == SUMMARIZE.collator
        else:
            assert collator.max_source_length == SOURCE_LENGTH
            assert collator.max_target_length in (
                SUMMARIZE.collator.max_target_length,
                TARGET_LENGTH,
            )
        assert run.cut["rows"] == 1

    def test_starts_as_its_architecture_does(self, run):
        config = transformers.AutoConfig.from_pretrained(run)
        tokenizer = Tokenizer.load(run.path)
        starts = {
            "t5": tokenizer.pad_id,
            "marian": tokenizer.pad_id,
            "pegasus": tokenizer.pad_id,
            "bart": tokenizer.eos_id,
            "mbart": tokenizer.eos_id,
            "encoder-decoder": tokenizer.token_to_id("[CLS]"),
        }

        assert config.decoder_start_token_id == starts[config.model_type]

    def test_learns_from_what_the_collator_says(self, run):
        """The model shifts labels itself, so what it is fed first is what it starts with."""
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(run).eval()
        labels = torch.from_numpy(lk.encode(run.task, RECORDS[:1], run.path)[0].labels)[None]
        source = torch.from_numpy(prompt_ids(run.task, RECORDS[0], run.path))[None]
        shifted = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), labels], dim=1)

        with torch.inference_mode(), quiet():
            learned = model(input_ids=source, labels=labels).logits
            given = model(input_ids=source, decoder_input_ids=shifted[:, :-1]).logits

        torch.testing.assert_close(learned, given)


class TestAnswers:
    def test_are_what_generate_writes(self, ready):
        for record in RECORDS:
            answer = ready(record, max_new_tokens=10)
            assert list(answer.token_ids) == generated(ready, record, max_new_tokens=10)
            assert answer.usage.completion_tokens == len(answer.token_ids)

    def test_in_a_batch_are_those_of_single_calls(self, ready):
        """Sources are padded on the right, where an encoder's positions are those of training."""
        together = ready.batch(RECORDS, max_new_tokens=10, batch_size=4)

        assert together == [ready(record, max_new_tokens=10) for record in RECORDS]
        assert len({token for answer in together for token in answer.token_ids}) > 5

    def test_in_pieces_are_the_whole(self, ready):
        assert "".join(ready.stream(RECORDS[1], max_new_tokens=10)) == (
            ready(RECORDS[1], max_new_tokens=10).text
        )

    def test_end_at_a_stop_string_that_is_cut_off(self, ready):
        text = ready(RECORDS[1], max_new_tokens=12).text
        stop = text[len(text) // 2 :][:2]
        assert stop

        answer = ready(RECORDS[1], max_new_tokens=12, stop=stop)

        assert answer.text == text[: text.index(stop)]
        assert answer.finish_reason == "stop"

    def test_end_at_a_consonant_that_might_have_got_a_vowel(self, ready, monkeypatch):
        """`generate()` stops at it; nothing comes after it that would say so."""
        ids = ready.tokenizer.encode("ab\u1112")
        monkeypatch.setattr(type(ready), "_generate", lambda *_: [ids])

        answer = ready(RECORDS[0], stop="\u1112")

        assert (answer.text, answer.finish_reason) == ("ab", "stop")

    def test_take_no_room_from_a_long_source(self, tmp_path):
        run = train("bart", tmp_path / "run")
        ask = TorchAnswerer(
            task=cutting(run.task),
            model=stirred(load_model(run.path, family=Family.SEQ2SEQ).model),
            tokenizer=Tokenizer.load(run.path),
        )

        answer = ask(LONG[-1], max_new_tokens=30, min_new_tokens=30)

        assert answer.usage.prompt_tokens == SOURCE_LENGTH
        assert answer.usage.completion_tokens == 30


class TestMetrics:
    def test_count_rows_whose_source_is_cut_in_training(self, ready):
        task = ready.task.evolve(
            collator=lk.Seq2SeqCollator(max_source_length=30),
            metrics=[lk.ExactMatch()],
            generation=lk.Generation(max_new_tokens=4),
        )
        ask = ready.with_task(task)

        found = lk.evaluate(ask, data=LONG)

        assert found["records"] == len(LONG)
        assert found["exact_match"] == 0
        with pytest.raises(RecordError, match=r"record 1: its source has .* reads 30"):
            ask.batch([RECORDS[2], LONG[-1]])


class TestScratch:
    def test_a_pair_is_written_on_a_command_line(self):
        pair = MODELS["bert and bert"]

        assert parse_scratch(str(pair)) == pair
        assert "decoder={" in str(pair)

    def test_a_pairs_decoder_is_one_that_reads_the_encoder(self):
        loaded = load_model(MODELS["bert and bert"], family=Family.SEQ2SEQ, tokenizer=bert_like())
        encoder, decoder = loaded.model.config.encoder, loaded.model.config.decoder

        assert decoder.is_decoder
        assert decoder.add_cross_attention
        assert not encoder.is_decoder
        assert encoder.vocab_size == decoder.vocab_size == loaded.tokenizer.vocab_size
        assert loaded.tokenizer.special["eos_token"] == "[SEP]"
        assert loaded.tokenizer.special["bos_token"] == "[CLS]"

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({}, "has no encoder with a model_type"),
            ({"encoder": ENCODER}, "has no decoder with a model_type"),
            ({"encoder": ENCODER, "decoder": "bert"}, "has no decoder with a model_type"),
        ],
    )
    def test_half_a_pair_is_refused(self, config, problem):
        with pytest.raises(ModelError, match=problem):
            load_model(
                lk.scratch("encoder-decoder", **config),
                family=Family.SEQ2SEQ,
                tokenizer=bert_like(),
            )

    @pytest.mark.parametrize(
        "config",
        [
            {"encoder": {**ENCODER, "num_hiden_layers": 1}, "decoder": DECODER},
            {"encoder": ENCODER, "decoder": DECODER, "num_hiden_layers": 1},
        ],
    )
    def test_a_misspelt_value_is_refused(self, config):
        with pytest.raises(UnknownOption, match="num_hiden_layers"):
            load_model(
                lk.scratch("encoder-decoder", **config),
                family=Family.SEQ2SEQ,
                tokenizer=bert_like(),
            )

    def test_a_causal_architecture_is_no_seq2seq_model(self):
        with pytest.raises(ModelError, match="cannot be built"):
            load_model(
                lk.scratch("gpt2", n_layer=1),
                family=Family.SEQ2SEQ,
                tokenizer=small_tokenizer(),
            )

    def test_ids_that_a_default_names_are_the_tokenizers(self):
        """BART's default forces the id 2 at the end and starts with it: its EOS, whatever ours is."""
        tokenizer = small_tokenizer()
        model = load_model(MODELS["bart"], family=Family.SEQ2SEQ, tokenizer=tokenizer).model

        assert model.config.decoder_start_token_id == tokenizer.eos_id
        assert model.config.forced_eos_token_id == tokenizer.eos_id


class TestTheStartToken:
    def test_of_a_model_that_says_it_is_kept(self, ready):
        config = transformers.BartConfig(**MODELS["bart"].config, decoder_start_token_id=7)
        model = transformers.BartForConditionalGeneration(config)

        align(model, ready.tokenizer, SUMMARIZE.formatter)

        assert model.config.decoder_start_token_id == 7
        assert model.generation_config.decoder_start_token_id == 7

    def test_of_mbart_is_what_ends_a_target(self):
        """Its labels are rolled round, so that the language behind the EOS comes first."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import processors

        plain = lk.train_tokenizer(kind="bpe", vocab_size=300, data=RECORDS)
        backend = Backend.from_str(plain.definition)
        ends = ["<|endoftext|>", "<|im_end|>"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {ends[0]} {ends[1]}",
            special_tokens=[(e, plain.token_to_id(e)) for e in ends],
        )
        tokenizer = Tokenizer(backend.to_str(), special=plain.special)
        loaded = load_model(MODELS["mbart"], family=Family.SEQ2SEQ, tokenizer=tokenizer)

        assert start_id(loaded.model, loaded.tokenizer) == plain.token_to_id("<|im_end|>")


@pytest.mark.skipif(
    "forced_eos_token_id" not in attrs.fields_dict(lk.Generation),
    reason="Generation forces no tokens yet",
)
class TestForcedIds:
    @pytest.fixture
    def model(self):
        model = load_model(MODELS["bart"], family=Family.SEQ2SEQ, tokenizer=small_tokenizer()).model
        model.generation_config.forced_eos_token_id = 5
        return model

    def test_of_the_model_are_the_tasks_where_it_names_none(self, model):
        assert with_own_ids(SUMMARIZE, model).generation.forced_eos_token_id == 5
        assert with_own_ids(SUMMARIZE, model).generation.forced_bos_token_id is None

    def test_of_the_task_stay(self, model):
        task = SUMMARIZE.evolve(generation=SUMMARIZE.generation.override(forced_eos_token_id=6))

        assert with_own_ids(task, model) == task

    def test_that_the_model_forbids_are_never_written(self, model):
        """Marian's files forbid the pad token as a bad word; its end is never one."""
        end = model.generation_config.eos_token_id
        model.generation_config.bad_words_ids = [[7], [8, 9], [end]]
        model.generation_config.suppress_tokens = [4, 7]

        task = with_own_ids(SUMMARIZE, model)

        assert task.generation.suppress_tokens == (4, 7)
        named = SUMMARIZE.evolve(generation=SUMMARIZE.generation.override(suppress_tokens=[3]))
        assert with_own_ids(named, model).generation.suppress_tokens == (3,)


class TestEmbeddings:
    @pytest.mark.parametrize("name", ["t5", "t5 v1.1", "bart", "marian", "bert and bert"])
    def test_grow_with_a_pad_token_that_is_added(self, name, tmp_path):
        before = load_model(MODELS[name], family=Family.SEQ2SEQ, tokenizer=tokenizer_for(name))

        run = train(
            name,
            tmp_path / "run",
            model=before.model,
            tokenizer=before.tokenizer,
            pad="[PAD]",
            data=RECORDS,
        )

        saved = transformers.AutoModelForSeq2SeqLM.from_pretrained(run)
        assert Tokenizer.load(run.path).pad_id == before.tokenizer.vocab_size
        assert saved.get_output_embeddings().weight.shape[0] == before.tokenizer.vocab_size + 1
        assert saved.get_input_embeddings().weight.shape[0] == before.tokenizer.vocab_size + 1

    def test_of_two_tables_grow_both(self):
        tokenizer = small_tokenizer()
        config = transformers.MarianConfig(
            **MODELS["marian"].config,
            vocab_size=tokenizer.vocab_size,
            decoder_vocab_size=tokenizer.vocab_size,
            pad_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=0,
            share_encoder_decoder_embeddings=False,
            tie_word_embeddings=False,
        )
        model = transformers.MarianMTModel(config)

        loaded = load_model(model, family=Family.SEQ2SEQ, tokenizer=tokenizer, pad="[PAD]")

        rows = tokenizer.vocab_size + 1
        assert loaded.model.model.encoder.embed_tokens.weight.shape[0] == rows
        assert loaded.model.model.decoder.embed_tokens.weight.shape[0] == rows
        with torch.inference_mode():
            logits = loaded.model(
                input_ids=torch.tensor([[rows - 1]]), decoder_input_ids=torch.tensor([[rows - 1]])
            ).logits
        assert logits.shape[-1] == rows


def test_a_task_is_fitted_to_each_side_of_its_model():
    loaded = load_model(MODELS["bert and bert"], family=Family.SEQ2SEQ, tokenizer=bert_like())

    found = fitted(SUMMARIZE, loaded.model).collator

    assert found.max_source_length == SOURCE_LENGTH
    assert found.max_target_length == TARGET_LENGTH
