"""A character model from scratch: windows of one text, its tail measured, and what it writes."""

import json
import random

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import lmkit as lk
from lmkit.errors import LmkitError, ModelError, RecordError, TaskError
from lmkit.train.answering import open_run
from lmkit.train.folder import Run
from lmkit.train.lessons import HeldOutWarning

BLOCK = 12
WORDS = ["나는", "너는", "간다.\n", "온다.\n\n", "the", "sea", "is", "blue.\n"]
TEXT = " ".join(random.Random(0).choices(WORDS, k=400))
MODEL = lk.scratch("gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=BLOCK + 1)
USUAL = {
    "model": MODEL,
    "eval_fraction": 0.1,
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "save_strategy": "no",
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture(scope="module")
def characters(text_file):
    return lk.train_tokenizer(kind="char", data=text_file)


@pytest.fixture(scope="module")
def fit_text(text_file, characters):
    def fit_text(output, **changes):
        options = {"data": text_file, "tokenizer": characters, **USUAL, **changes}
        return lk.train(options.pop("task", "char-lm"), output=output, **options)

    return fit_text


@pytest.fixture(scope="module")
def text_run(fit_text, tmp_path_factory):
    return fit_text(tmp_path_factory.mktemp("text") / "run")


@pytest.fixture(scope="module")
def ask(text_run):
    return open_run(text_run)


def losses(model, ids):
    """Return the loss of each token but the first, in consecutive blocks of context."""
    found = []
    for start in range(0, len(ids) - 1, BLOCK):
        x, y = ids[start : start + BLOCK], ids[start + 1 : start + 1 + BLOCK]
        with torch.no_grad():
            logits = model(input_ids=x[: len(y)][None]).logits[0]
        found += torch.nn.functional.cross_entropy(logits, y, reduction="none").tolist()
    return found


class TestARun:
    def test_its_loss_is_the_mean_over_the_whole_tail(self, text_run, characters):
        """Every token once, each from nanoGPT's x of at most a block: measured here by hand."""
        model = transformers.AutoModelForCausalLM.from_pretrained(text_run.path).eval()
        tail = torch.tensor(characters.encode(TEXT))[int(len(TEXT) * 0.9) :]

        wanted = losses(model, tail)

        assert len(wanted) == len(tail) - 1
        assert text_run.metrics["eval_loss"] == pytest.approx(np.mean(wanted), abs=1e-5)

    def test_its_windows_fit_the_models_positions(self, text_run):
        assert text_run.task.collator == lk.BlockCollator(block_size=BLOCK)
        assert text_run.cut == {"rows": 0, "ids": 0, "max_length": BLOCK + 1}

    def test_evaluate_measures_a_file_as_training_measures_its_tail(self, text_run, tmp_path):
        tail = tmp_path / "tail.txt"
        tail.write_text(TEXT[int(len(TEXT) * 0.9) :], "utf-8")

        figures = lk.evaluate(text_run, data=tail)

        assert figures["loss"] == pytest.approx(text_run.metrics["eval_loss"], abs=1e-5)
        assert figures["records"] == 1
        assert figures["tokens"] == len(tail.read_text("utf-8")) - 1

    def test_its_tail_is_in_it_to_be_measured_again(self, text_run):
        figures = lk.evaluate(text_run, data=text_run.path / "eval.jsonl")

        assert figures["loss"] == pytest.approx(text_run.metrics["eval_loss"], abs=1e-5)

    def test_a_tail_of_several_records_is_as_many(self, fit_text, tmp_path):
        rows = [{"text": line} for line in TEXT.splitlines() if line.strip()]

        run = fit_text(tmp_path / "run", data=rows)

        lines = (run.path / "eval.jsonl").read_text("utf-8").splitlines()
        kept = [json.loads(line) for line in lines]
        assert kept[1:] == rows[1 - len(kept) :]
        assert rows[-len(kept)]["text"].endswith(kept[0]["text"])
        figures = lk.evaluate(run, data=kept)
        assert figures["loss"] == pytest.approx(run.metrics["eval_loss"], abs=1e-5)

    def test_a_tail_that_opens_inside_a_character_is_not_kept(self, fit_text, tmp_path):
        pieces = lk.train_tokenizer(kind="bpe", vocab_size=300, data=[{"text": "x"}])
        text = [{"text": "가" * 100}]  # of three tokens each, of which 266 are learned from

        with pytest.warns(HeldOutWarning, match="'char-lm' holds out is not in the run"):
            run = fit_text(tmp_path / "run", data=text, tokenizer=pieces, eval_fraction=0.111)

        assert not (run.path / "eval.jsonl").exists()

    def test_it_says_how_much_of_its_data_was_one_text(self, text_run):
        about = json.loads((text_run.path / "run.json").read_text("utf-8"))

        assert about["data"]["rows"] == 1
        assert about["eval_fraction"] == 0.1

    def test_other_data_may_be_measured_instead(self, fit_text, tmp_path):
        tail = tmp_path / "other.txt"
        tail.write_text("나는 온다.\n\n", "utf-8")

        run = fit_text(tmp_path / "run", eval_fraction=None, eval_data=tail)

        figures = lk.evaluate(run, data=tail)
        assert run.metrics["eval_loss"] == pytest.approx(figures["loss"], abs=1e-5)

    @pytest.mark.slow
    def test_it_learns_the_text(self, fit_text, text_run, tmp_path):
        longer = fit_text(tmp_path / "run", max_steps=60)

        assert longer.metrics["eval_loss"] < text_run.metrics["eval_loss"] - 0.5

    @pytest.mark.slow
    def test_resumed_in_the_middle_of_an_epoch_it_comes_out_the_same(self, fit_text, tmp_path):
        steps = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
        whole = fit_text(tmp_path / "whole", **steps)
        again = fit_text(tmp_path / "again", **steps)
        about = json.loads((again.path / "run.json").read_text("utf-8"))
        (again.path / "run.json").write_text(json.dumps({**about, "finished": False}), "utf-8")
        (again.path / "checkpoint-6" / "task.json").unlink()  # as if killed while it was written

        resumed = fit_text(tmp_path / "again", **steps, resume=True)

        one, other = (load_file(run.path / "model.safetensors") for run in (whole, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_another_fraction_is_another_run(self, fit_text, text_run):
        with pytest.raises(ModelError, match=r"its eval_fraction was 0\.1 and is 0\.2"):
            fit_text(text_run.path, eval_fraction=0.2, resume=True)


class TestWhatIsRefused:
    def test_a_fraction_beside_data_to_measure(self, fit_text, text_file, tmp_path):
        with pytest.raises(LmkitError, match="eval_data and eval_fraction both say"):
            fit_text(tmp_path / "run", eval_data=text_file)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 90])
    def test_a_fraction_that_is_none(self, fit_text, tmp_path, fraction):
        with pytest.raises(LmkitError, match="expected a number between 0 and 1"):
            fit_text(tmp_path / "run", eval_fraction=fraction)

    def test_a_tail_without_a_prediction(self, fit_text, tmp_path):
        with pytest.raises(TaskError, match=r"eval_fraction is 0\.0001, which cuts a text of"):
            fit_text(tmp_path / "run", eval_fraction=1e-4)

    def test_an_empty_file(self, fit_text, tmp_path):
        (tmp_path / "empty.txt").write_text("")

        with pytest.raises(RecordError, match=r"empty\.txt: there are no records in it"):
            fit_text(tmp_path / "run", data=tmp_path / "empty.txt", eval_fraction=None)

    def test_a_single_character(self, fit_text, tmp_path):
        (tmp_path / "one.txt").write_text("나")

        with pytest.raises(RecordError, match=r"one\.txt: no row has anything to learn"):
            fit_text(tmp_path / "run", data=tmp_path / "one.txt", eval_fraction=None)

    @pytest.mark.parametrize("where", ["data", "eval_data"])
    def test_characters_that_the_tokenizer_has_not_learned(self, fit_text, tmp_path, where):
        (tmp_path / "odd.txt").write_text("나는 漢字", "utf-8")
        options = {"eval_fraction": None, where: tmp_path / "odd.txt"}

        with pytest.raises(RecordError, match=r"odd\.txt: the tokenizer has not learned .*'漢'"):
            fit_text(tmp_path / "run", **options)

    def test_such_characters_in_a_prompt(self, ask):
        with pytest.raises(RecordError, match=r"record 0: the tokenizer has not learned .*'漢'"):
            ask({"prompt": "漢"})


class TestWhatItWrites:
    def by_hand(self, ask, prompt, count):
        text, seen = prompt.tolist(), prompt.tolist()[-BLOCK:]
        while len(text) < len(prompt) + count:
            with torch.no_grad():
                logits = ask.model(input_ids=torch.tensor([seen])).logits[0, -1]
            text.append(int(logits.argmax()))
            seen.append(text[-1])
            if len(seen) == BLOCK + 1:
                seen = text[-ask.task.collator.kept :]
        return tuple(text[len(prompt) :])

    @pytest.mark.parametrize("prompt", ["", "나", "나는 간다.\n\nthe sea is blue"])
    def test_it_goes_on_past_its_window(self, ask, prompt):
        ids = lk.prompt_ids(ask.task, {"prompt": prompt}, ask.tokenizer)

        answer = ask({"prompt": prompt}, max_new_tokens=30, temperature=0)

        assert answer.token_ids == self.by_hand(ask, ids, 30)
        assert answer.finish_reason == "length"

    def test_draws_are_from_the_whole_distribution_and_repeatable(self, ask):
        one, same, other = (ask({}, max_new_tokens=30, seed=seed).text for seed in (1, 1, 2))

        assert one == same != other
        assert ask.task.generation.temperature == 1.0

    def test_its_windows_are_drawn_from_one_stream_of_chance(self, ask):
        """Seeded anew in each window, a text would repeat its draws."""
        text = ask({}, max_new_tokens=8 * BLOCK, seed=1).text

        halves = [text[i : i + BLOCK // 2] for i in range(BLOCK, len(text), BLOCK // 2)]
        assert len(set(halves)) > len(halves) // 2

    def test_a_stream_is_the_same_text(self, ask):
        told = {"max_new_tokens": 30, "temperature": 0}

        assert "".join(ask.stream({}, **told)) == ask({}, **told).text

    def test_a_stop_string_ends_it_in_whatever_window_it_comes(self, ask):
        whole = ask({}, max_new_tokens=60, temperature=0).text
        stop = whole[2 * BLOCK : 2 * BLOCK + 2]

        answer = ask({}, max_new_tokens=60, temperature=0, stop=stop)

        assert answer.text == whole[: whole.index(stop)]
        assert answer.finish_reason == "stop"


def test_several_records_are_one_text_with_ends(characters, tmp_path):
    rows = [{"text": "나는 간다.\n"}, {"text": "the sea"}] * 20

    run = lk.train("char-lm", data=rows, tokenizer=characters, output=tmp_path / "run", **USUAL)

    assert Run.open(run.path).metrics == {}
    n_tokens = sum(len(row["text"]) for row in rows) + len(rows) - 1
    assert lk.evaluate(run, data=rows)["tokens"] == n_tokens - 1
