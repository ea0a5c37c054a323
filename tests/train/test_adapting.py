"""An adapter's run: what trains, what is kept, and how its model is found again. peft is the reference."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import ROWS, TINY

import lmkit as lk
from lmkit.adapters import parse_adapter
from lmkit.answering import open_answerer
from lmkit.errors import MissingExtra, ModelError, TaskError, UnknownName
from lmkit.export.merging import settled
from lmkit.family import Family
from lmkit.train import adapting, progress
from lmkit.train.folder import Run
from lmkit.train.lengths import context_length
from lmkit.train.models import Loaded, load_model
from lmkit.train.scoring import batch_loss
from lmkit.train.wrapped import base_of

peft = pytest.importorskip("peft")

LORA = "lora:r=2,lora_dropout=0.2"
SOFT = "prompt_tuning:num_virtual_tokens=4,init_text=무엇"
KINDS = {"lora": LORA, "soft": SOFT}
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


@pytest.fixture(scope="module")
def base(run, tmp_path_factory):
    """Return the folder of a trained model, a run without its checkpoints; tests only read it."""
    folder = tmp_path_factory.mktemp("base") / "base"
    return shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))


@pytest.fixture(scope="module")
def tune(fit, base):
    """Return a function that trains an adapter beside that model."""

    def tune(output, adapter, **changes):
        usual = {"model": base, "tokenizer": None, "learning_rate": 3e-2}
        return fit(output, adapter=adapter, **{**usual, **changes})

    return tune


@pytest.fixture(scope="module", params=KINDS)
def tuned(request, tune, tmp_path_factory):
    """Return an adapter's run of six steps, the last checkpoints at 4 and 6; tests only read it."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return tune(folder, KINDS[request.param], **STEPS)


def weights(folder):
    return load_file(Path(folder) / "adapter_model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def theirs(base, folder):
    """Return the model as peft opens it, without lmkit."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(model, str(folder)).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


class TestTheFolder:
    def test_holds_the_adapter_and_not_the_model(self, tuned, base):
        files = {path.name for path in tuned.path.iterdir() if path.is_file()}

        assert files == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "chat_template.jinja",
            "generation_config.json",
            "metrics.jsonl",
            "preview.json",
            "report.html",
            "run.json",
            "task.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        size = (tuned.path / "adapter_model.safetensors").stat().st_size
        assert size < (base / "model.safetensors").stat().st_size / 4

    def test_names_its_model_by_a_whole_path_with_what_was_asked_for(self, tuned, base):
        config = json.loads((tuned.path / "adapter_config.json").read_text("utf-8"))
        about = json.loads((tuned.path / "run.json").read_text("utf-8"))

        assert config["base_model_name_or_path"] == str(base.resolve()) == about["base"]["name"]
        assert parse_adapter(about["adapter"]) in map(parse_adapter, KINDS.values())

    def test_says_how_much_was_trained_as_peft_counts(self, tuned, base):
        model = theirs(base, tuned.path)
        kept = sum(tensor.numel() for tensor in weights(tuned).values())

        assert tuned.parameters == {
            "trainable": kept,
            "all": model.get_nb_trainable_parameters()[1],
        }
        assert kept < tuned.parameters["all"] / 10

    def test_leaves_the_model_as_it_was(self, tuned, base, run):
        model = open_answerer(tuned).model

        before = (run.path / "model.safetensors").read_bytes()
        assert (base / "model.safetensors").read_bytes() == before
        plain = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
        adapted = {k.replace(".base_layer", ""): v for k, v in base_of(model).state_dict().items()}
        assert all(torch.equal(adapted[name], tensor) for name, tensor in plain.items())

    def test_each_checkpoint_is_a_run_itself(self, tuned):
        checkpoint = Run.open(tuned.path / "checkpoint-4")

        assert checkpoint.task == tuned.task
        assert lk.evaluate(checkpoint, data=ROWS[:3])["tokens"] > 0
        assert same(tuned, tuned.path / "checkpoint-6")
        assert not same(tuned, tuned.path / "checkpoint-4")


class TestOpening:
    def test_peft_opens_it_and_gives_the_same_logits(self, tuned, base):
        ours = open_answerer(tuned).model

        assert torch.equal(
            logits(ours, [5, 6, 7, 8]), logits(theirs(base, tuned.path), [5, 6, 7, 8])
        )

    def test_it_learned(self, tuned, tune, tmp_path):
        kind = "soft" if adapting.is_soft_prompt(open_answerer(tuned).model) else "lora"
        untrained = tune(tmp_path / "run", KINDS[kind], learning_rate=1e-12)

        assert lk.evaluate(tuned, data=ROWS)["loss"] < lk.evaluate(untrained, data=ROWS)["loss"]

    def test_its_answers_are_pefts_alone_and_in_a_ragged_batch(self, tuned, base):
        """Behind a soft prompt peft itself counts a shorter row's padding as places."""
        ask, model = open_answerer(tuned), theirs(base, tuned.path)
        records = [{"prompt": text} for text in ("수?", "무엇인가요? 무엇인가요?", "1은")]
        expected = []
        for record in records:
            ids = torch.from_numpy(ask.prompt(record))[None]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8,
                    do_sample=False,
                )  # fmt: skip
            expected.append(tuple(found[0, ids.shape[1] :].tolist()))

        answers = ask.batch(records, max_new_tokens=8, temperature=0)

        assert [answer.token_ids for answer in answers] == expected
        assert "".join(ask.stream(records[0], max_new_tokens=8, temperature=0)) == answers[0].text

    def test_a_soft_prompt_takes_its_places_from_the_context(self, tuned):
        model = open_answerer(tuned).model
        taken = 4 if adapting.is_soft_prompt(model) else 0

        assert context_length(model) == TINY["n_positions"] - taken
        assert tuned.task.collator.max_length == TINY["n_positions"] - taken

    def test_transformers_opens_a_lora_by_itself(self, tune, base, tmp_path):
        run = tune(tmp_path / "run", LORA)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = transformers.AutoModelForCausalLM.from_pretrained(run).eval()

        assert torch.equal(logits(model, [5, 6, 7]), logits(theirs(base, run.path), [5, 6, 7]))


class TestItsModel:
    @pytest.fixture
    def moved(self, tune, base, tmp_path):
        """Return an adapter's run, and its model's folder, which is this test's own."""
        own = shutil.copytree(base, tmp_path / "model")
        return tune(tmp_path / "run", "lora:r=2", model=own), own

    def test_that_moved_is_named_with_what_to_do(self, moved, tmp_path):
        run, own = moved
        own.rename(tmp_path / "elsewhere")

        for use in (lambda: lk.evaluate(run, data=ROWS), lambda: lk.export(run, output="x")):
            with pytest.raises(
                ModelError, match=rf"an adapter of the model '{own}', which is not there any more"
            ) as caught:
                use()
            assert "adapter_config.json as base_model_name_or_path" in str(caught.value)

    def test_may_be_named_anew_where_it_went(self, moved, tmp_path):
        run, own = moved
        before = lk.evaluate(run, data=ROWS[:3])
        own.rename(tmp_path / "elsewhere")
        file = run.path / "adapter_config.json"
        config = json.loads(file.read_text("utf-8"))
        config["base_model_name_or_path"] = str(tmp_path / "elsewhere")
        file.write_text(json.dumps(config), "utf-8")

        assert lk.evaluate(run, data=ROWS[:3]) == before

    def test_whose_weights_changed_is_refused(self, moved, fit):
        run, own = moved
        shutil.rmtree(own)
        fit(own, seed=9)

        with pytest.raises(ModelError, match=r"whose weights have changed since; put the old ones"):
            open_answerer(run)

    def test_is_found_from_another_folder_though_it_was_named_from_this_one(
        self, tune, base, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(base.parent)
        run = tune(tmp_path / "run", "lora:r=2", model=base.name)
        monkeypatch.chdir(tmp_path)

        assert lk.evaluate(run, data=ROWS[:3])["tokens"] > 0


class TestResuming:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_ends_as_if_there_had_been_no_interruption(
        self, tune, tmp_path, monkeypatch, kind, request
    ):
        """Dropout is on, in the model and in the LoRA."""

        class Cut(Exception):
            pass

        def crash(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "on_step_end", crash)
            with pytest.raises(Cut):
                tune(tmp_path / "run", KINDS[kind], **STEPS)
        with pytest.raises(ModelError, match="has not finished"):
            Run.open(tmp_path / "run")

        resumed = tune(tmp_path / "run", KINDS[kind], resume=True, **STEPS)

        assert same(resumed, tune(tmp_path / "whole", KINDS[kind], **STEPS))

    def test_with_another_adapter_it_is_refused(self, tuned, tune):
        with pytest.raises(ModelError, match=r"its adapter was \w+:.* and is lora:r=3 now"):
            tune(tuned.path, "lora:r=3", resume=True, **STEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_checkpoint_can_be_the_result(tune, tmp_path, kind):
    """Best is here the one with the largest loss, which the last one should not have."""
    run = tune(
        tmp_path / "run", KINDS[kind], eval_data=ROWS[:3], load_best_model_at_end=True,
        metric_for_best_model="eval_loss", greater_is_better=True, max_steps=4, save_strategy="steps",
        eval_strategy="steps", save_steps=1, eval_steps=1, save_total_limit=4,
    )  # fmt: skip

    losses = {
        path.name: lk.evaluate(path, data=ROWS[:3])["loss"] for path in run.path.glob("check*")
    }
    assert len(losses) == 4
    best = max(losses, key=losses.get)
    assert best != "checkpoint-4"
    assert same(run, run.path / best)
    assert not same(run, run.path / "checkpoint-4")


class TestInitText:
    @pytest.mark.parametrize("count", [2, 3, 7])
    def test_its_embeddings_are_repeated_or_cut_as_peft_does_it(self, base, count, tokenizer):
        """The reference loads a tokenizer by name; ours is the run's own, wherever that is."""
        text = "수입니"
        config = peft.PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=count,
            prompt_tuning_init="TEXT",
            prompt_tuning_init_text=text,
            tokenizer_name_or_path=str(base),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = peft.get_peft_model(
                transformers.AutoModelForCausalLM.from_pretrained(base), config
            )
        loaded = load_model(base, family=Family.CAUSAL)

        ours = adapting.adapted(
            loaded, lk.prompt_tuning(count, text), family=Family.CAUSAL, base=str(base), seed=1
        )

        assert torch.equal(ours.model.get_prompt(batch_size=1), reference.get_prompt(batch_size=1))

    def test_without_one_they_are_tokens_of_the_vocabulary_drawn_from_the_seed(self, base):
        def vectors(seed):
            loaded = load_model(base, family=Family.CAUSAL)
            whole = adapting.adapted(
                loaded, lk.prompt_tuning(3), family=Family.CAUSAL, base=str(base), seed=seed
            )
            return whole.model.get_prompt(batch_size=1)[0], whole.model.word_embeddings.weight

        found, words = vectors(1)

        assert torch.equal(found, vectors(1)[0])
        assert not torch.equal(found, vectors(2)[0])
        assert all((vector == words).all(dim=1).any() for vector in found)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": lk.scratch("gpt2", **TINY)}, r"random ones would be found nowhere again"),
            ({"model": "scratch:gpt2,n_layer=1"}, r"an adapter on 'scratch:gpt2,n_layer=1' is"),
            ({"model": object()}, r"an adapter on a loaded object is refused"),
            ({"model": "./gone"}, r"there is no model folder './gone'"),
            (
                {"adapter": "prompt_tuning:num_virtual_tokens=95"},
                r"95 virtual tokens leave no room",
            ),
            (
                {"pad": "[PAD]"},
                r"rows of embeddings, which an adapter leaves as they are; name as pad",
            ),
        ],
        ids=["scratch", "its text", "a loaded model", "no model", "no room", "a new pad token"],
    )
    def test_what_cannot_be_kept_or_found_again(self, tune, tmp_path, changes, message):
        with pytest.raises(ModelError, match=message):
            tune(tmp_path / "run", changes.pop("adapter", LORA), **changes)

        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("names", ['["c_atn"]', '["c_attn","c_atn"]'])
    def test_a_layer_that_is_not_there_with_the_near_name(self, tune, tmp_path, names):
        """peft would leave the second list's misspelt name out without a word."""
        with pytest.raises(
            UnknownName, match=r"no layer of this GPT2LM\w+ named 'c_atn'\n.*c_attn"
        ):
            tune(tmp_path / "run", f"lora:target_modules={names}")

        assert not (tmp_path / "run").exists()

    def test_a_layer_that_peft_cannot_adapt(self, tune, tmp_path):
        with pytest.raises(
            ModelError, match=r"cannot be put beside a GPT2LM.*its layers are c_attn"
        ):
            tune(tmp_path / "run", "lora:target_modules=ln_1")

    def test_no_virtual_tokens(self, tune, tmp_path):
        with pytest.raises(TaskError, match="num_virtual_tokens is 0"):
            tune(tmp_path / "run", "prompt_tuning:num_virtual_tokens=0")

    def test_an_adapter_of_an_adapter(self, tuned, tune, tmp_path):
        with pytest.raises(ModelError, match=r"holds an adapter already"):
            tune(tmp_path / "run", LORA, model=tuned.path)

    @pytest.mark.parametrize("family", [Family.MASKED, Family.SEQ2SEQ])
    def test_a_soft_prompt_in_another_family(self, base, family):
        with pytest.raises(ModelError, match=rf"this is a {family} task; use lora"):
            adapting.base_name(base, lk.prompt_tuning(4), family)

    def test_an_adapter_as_a_model_to_train(self, tuned, fit, tmp_path):
        """Nothing in it asks for gradients, so torch would fail in the first step."""
        with pytest.raises(
            ModelError, match=r"holds an adapter, .* so nothing would train; contin"
        ):
            fit(tmp_path / "run", model=tuned.path, tokenizer=None)

        assert not (tmp_path / "run").exists()

    def test_an_adapter_without_its_weights(self, tuned, tmp_path):
        """peft would look for them on the hub."""
        folder = shutil.copytree(tuned.path, tmp_path / "run")
        (folder / "adapter_model.safetensors").unlink()

        with pytest.raises(ModelError, match="without its weights: it has no adapter_model"):
            open_answerer(folder)

    def test_an_adapter_of_a_kind_that_lmkit_does_not_know(self, tuned, tmp_path):
        folder = shutil.copytree(tuned, tmp_path / "run")
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps({**config, "peft_type": "PREFIX_TUNING"}), "utf-8")

        with pytest.raises(
            ModelError, match="a PREFIX_TUNING adapter; lmkit opens LORA and PROMPT"
        ):
            open_answerer(folder)

    @pytest.mark.parametrize("use", ["train", "evaluate"])
    def test_without_peft_it_is_said_what_to_install(self, tuned, tune, tmp_path, monkeypatch, use):
        monkeypatch.setitem(sys.modules, "peft", None)

        verbs = {
            "train": lambda: tune(tmp_path / "run", LORA),
            "evaluate": lambda: lk.evaluate(tuned, data=ROWS),
        }
        with pytest.raises(MissingExtra, match=r"an adapter needs .*'lmkit-tasks\[peft\]'"):
            verbs[use]()

        assert not (tmp_path / "run").exists()


def test_a_pad_token_for_which_the_model_has_a_row_is_no_growth(tune, base, tmp_path):
    """Many models' embeddings are rounded up, and a new token then has a row already."""
    wide = shutil.copytree(base, tmp_path / "wide")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(64, mean_resizing=False)
    model.save_pretrained(wide)
    (wide / "run.json").unlink()

    run = tune(tmp_path / "run", LORA, model=wide, pad="[PAD]")

    assert lk.Tokenizer.load(run.path).special["pad_token"] == "[PAD]"
    assert lk.evaluate(run, data=ROWS[:3])["tokens"] > 0


def test_packed_rows_have_no_place_for_a_soft_prompt_before_each(base):
    """peft leaves out the positions that tell them apart, with no more than a warning."""
    loaded = load_model(base, family=Family.CAUSAL)
    whole = adapting.adapted(
        loaded, lk.prompt_tuning(2), family=Family.CAUSAL, base=str(base), seed=1
    )
    ids = torch.tensor([[5, 6, 7, 5, 6]])
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 1]])}

    with pytest.raises(ModelError, match="do not pack"):
        batch_loss(whole.model, batch)


def bert():
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=32,
        )
    ).eval()  # fmt: skip


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("family", "make"), [(Family.MASKED, bert), (Family.SEQ2SEQ, t5)])
def test_a_lora_is_for_every_family_through_the_disk_and_the_merge(
    tmp_path, tokenizer, family, make
):
    model = make()
    model.save_pretrained(tmp_path / "base")
    whole = adapting.adapted(
        Loaded(model, tokenizer, "x"),
        lk.lora(r=2),
        family=family,
        base=str(tmp_path / "base"),
        seed=1,
    ).model
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_B" in name:  # zero at first, and then the adapter would do nothing
                parameter.normal_()
    whole.save_pretrained(tmp_path / "run")
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    if family is Family.SEQ2SEQ:
        inputs["decoder_input_ids"] = torch.tensor([[0]])
    with torch.no_grad():
        expected = whole.eval()(**inputs).logits
        untouched = make().eval()(**inputs).logits

    opened, _ = adapting.open_adapter(tmp_path / "run", family)
    merged, account = settled(opened, [np.array([5, 6, 7])], family)

    with torch.no_grad():
        found = merged(**inputs).logits
    assert type(merged) is type(model)
    assert account["kind"] == "lora"
    assert account["merge_max_logit_difference"] < 1e-4
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(untouched, expected, atol=1e-2)
