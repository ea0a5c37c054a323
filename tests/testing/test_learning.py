"""The promises that train and export: what cannot be learned, or answers otherwise, is told."""

import importlib.util
import random

import pytest

import lmkit as lk
from lmkit.testing import PromiseBroken, check_task, sample_records, tiny_model

pytest.importorskip("torch")

ROWS = [{"q": row["prompt"], "a": row["completion"]} for row in sample_records("causal")[:4]]


@pytest.fixture
def few_steps(monkeypatch):
    """Give up early: what is broken does not get better, and what is sound needs no more."""
    from lmkit.testing.promises import overfits

    monkeypatch.setattr(overfits, "STEPS", dict.fromkeys(lk.Family, (80,)))


def failure(task, *promises, rows=ROWS):
    with pytest.raises(PromiseBroken) as raised:
        check_task(task, rows, promises=promises)
    return raised.value


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
class TestItOverfits:
    def test_a_sound_task(self, broken, capfd):
        drawn = random.getstate()

        report = check_task(broken.task(), ROWS, promises=["overfits"])

        assert report.kept == ("overfits",)
        assert random.getstate() == drawn
        assert capfd.readouterr() == ("", "")

    def test_but_not_where_labels_are_shifted_twice(self, broken):
        error = failure(broken.task(collator=broken.ShiftedCollator()), "overfits")

        assert "a tiny model that saw 4 rows 80 times each repeats 0 of them" in str(error)
        assert "\n  expected  'Seoul.'" in str(error)
        assert "\n  answered  " in str(error)
        assert error.record == ROWS[0]

    def test_but_not_where_another_part_is_learned(self, broken):
        error = failure(broken.task(collator=broken.WrongPartCollator()), "overfits")

        assert "repeats 0 of them" in str(error)
        assert "«Q: What is the capital of Korea?↵" in str(error)

    def test_but_not_where_the_loss_sees_only_the_first_token(self, broken):
        error = failure(broken.task(loss=broken.FirstTokenLoss()), "overfits")

        assert "look at the loss and the collator" in str(error)

    def test_but_not_where_the_prompt_leaves_the_question_out(self, broken):
        error = failure(broken.task(formatter=broken.Mute()), "overfits")

        assert "it is asked the same of record 0 and of record 1" in str(error)

    def test_but_not_where_the_prompt_is_another_one(self, broken):
        error = failure(broken.task(formatter=broken.Backwards()), "overfits")

        assert "times each repeats" in str(error)

    def test_but_not_where_there_is_no_answer(self, broken):
        rows = [{**row, "a": " "} for row in ROWS]

        assert "all answers are blank" in str(failure(broken.task(), "overfits", rows=rows))


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_bundle_that_is_read_otherwise_without_torch_is_told(broken):
    error = failure(broken.task(decoder=broken.FickleDecoder()), "exports")

    assert error.promise == "exports"
    assert "its bundle answers otherwise where there is no torch" in str(error)
    assert '\n  torch   "SEOUL."\n  bundle  "Seoul."' in str(error)


@pytest.mark.parametrize(
    ("lacks", "left"), [("torch", ("overfits", "exports")), ("onnx", ("exports",))]
)
def test_what_needs_packages_that_are_not_there_is_left_out(broken, monkeypatch, lacks, left):
    from lmkit.testing.promises import overfits

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == lacks else find(name, *rest),
    )
    monkeypatch.setattr(overfits, "taught", lambda *args: None)
    monkeypatch.setattr(overfits, "_mistakes", lambda learned: [])
    report = check_task(broken.task(), ROWS, promises=["columns", "overfits", "exports"])

    assert tuple(report.skipped) == left
    assert all("pip install 'lmkit-tasks[" in reason for reason in report.skipped.values())
    assert all(outcome.lacking is bool(outcome.skipped) for outcome in report.outcomes)


def test_records_that_are_too_long_for_a_tiny_model_are_left_out(broken):
    rows = [{"q": "a" + "bcdefghij " * 400 + str(n), "a": "b"} for n in range(2)]
    report = check_task(broken.task(collator=lk.CausalCollator(4096)), rows, promises=["overfits"])

    assert "no record has at most 384 tokens" in report.skipped["overfits"]


class TestTheRecordsThatAreLearned:
    @staticmethod
    def pupil(task, rows, tmp_path, **options):
        from lmkit.testing.case import Case
        from lmkit.testing.learning import pupil_of
        from lmkit.testing.toys import small_tokenizers

        tokenizers = small_tokenizers(task.family)
        case = Case(
            task=task,
            declared=task,
            records=rows,
            tokenizers=tokenizers,
            folder=tmp_path,
            **options,
        )
        return pupil_of(case)

    def test_ask_ten_things_that_differ(self, broken, tmp_path):
        rows = [{"q": str(n // 2), "a": str(n)} for n in range(40)]

        pupil = self.pupil(broken.task(), rows, tmp_path)

        assert [row["a"] for row in pupil.rows] == [str(n) for n in range(0, 20, 2)]

    def test_are_answered_greedily_and_whole(self, broken, tmp_path):
        drawn = lk.Generation(
            max_new_tokens=1, temperature=2.0, repetition_penalty=3.0, stop=("###",)
        )
        pupil = self.pupil(broken.task(generation=drawn), ROWS, tmp_path)

        assert pupil.task.generation.temperature == 0
        assert pupil.task.generation.repetition_penalty == 1
        assert pupil.task.generation.stop == ("###",)
        assert pupil.task.generation.max_new_tokens > 8

    def test_are_encoded_by_the_callers_tokenizer_unless_it_is_large(self, load_shared, tmp_path):
        from lmkit.testing.toys import toy_tokenizer

        task, rows = lk.get_task("qa"), tuple(sample_records("causal"))
        toy = self.pupil(task, rows, tmp_path, given=False)

        assert toy.tokenizer.vocab_size < toy_tokenizer().vocab_size
        assert load_shared("qwen2").vocab_size > 16_000


def test_a_tiny_model_is_tiny():
    import transformers

    from lmkit.train.heads import head

    for family in lk.Family:
        made = tiny_model(family)
        config = transformers.AutoConfig.for_model(made.model_type, **made.config, vocab_size=600)
        model = head(family).from_config(config)

        assert sum(weight.numel() for weight in model.parameters()) < 400_000
