"""A fraction held out, and answers sampled while a run is trained."""

import json

import pytest
from tiny import ROWS

import lmkit as lk
from lmkit.errors import LmkitError, ModelError, RecordError
from lmkit.records import Row, SkippedRows
from lmkit.train import progress
from lmkit.train.lessons import encoded, open_lessons, split, write_skipped
from lmkit.train.preparing.caching import Preparation

QA = lk.get_task("qa")
STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


def rows(n):
    return [Row({"prompt": str(index)}, f"a:{index}") for index in range(n)]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TestASplit:
    @pytest.mark.parametrize(
        ("n", "fraction", "seed"), [(12, 0.2, 42), (101, 0.33, 0), (2, 0.5, 7)]
    )
    def test_is_that_of_datasets_train_test_split(self, n, fraction, seed):
        datasets = pytest.importorskip("datasets")
        wanted = datasets.Dataset.from_list([dict(row) for row in rows(n)]).train_test_split(
            test_size=fraction, seed=seed
        )

        train, held_out = split(rows(n), fraction, seed, name="a")

        assert [row["prompt"] for row in train] == wanted["train"]["prompt"]
        assert [row["prompt"] for row in held_out] == wanted["test"]["prompt"]

    def test_leaves_something_to_learn_from(self):
        with pytest.raises(RecordError, match=r"a\.jsonl: 1 records are too few to hold out 0\.2"):
            split(rows(1), 0.2, 0, name="a.jsonl")


@pytest.fixture(scope="module")
def sampled(fit, tmp_path_factory):
    """Return a run with a fraction held out and answers sampled; tests only read it."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    return fit(folder, eval_fraction=0.25, sample=2, **STEPS)


class TestAHeldOutFraction:
    def test_is_in_the_run_to_be_measured_again(self, sampled):
        figures = lk.evaluate(sampled, data=sampled.path / "eval.jsonl")

        assert figures["records"] == 3
        assert figures["loss"] == pytest.approx(sampled.metrics["eval_loss"])

    def test_is_not_learned_from(self, sampled):
        about = json.loads((sampled.path / "run.json").read_text("utf-8"))
        held_out = lines(sampled.path / "eval.jsonl")
        train, wanted = split([Row(row, "a") for row in ROWS], 0.25, 42, name="a")

        assert held_out == wanted
        assert about["data"]["rows"] == len(train) == 9
        assert about["eval_fraction"] == 0.25

    def test_holds_the_records_as_they_were_read(self, fit, tmp_path):
        """Else `evaluate` would transform them twice."""
        task = QA.map(lambda record: {**record, "prompt": record["prompt"] + "!"})

        run = fit(tmp_path / "run", task=task, eval_fraction=0.25)

        assert not any(row["prompt"].endswith("!") for row in lines(run.path / "eval.jsonl"))
        assert lk.evaluate(run, data=run.path / "eval.jsonl", task=task)["loss"] == pytest.approx(
            run.metrics["eval_loss"]
        )

    def test_of_a_mixture_is_each_tasks_own(self, fit, tmp_path):
        mixture = lk.mix({"qa": 1, QA.evolve(name="other"): 1})

        run = fit(
            tmp_path / "run", task=mixture, data={"qa": ROWS, "other": ROWS[:4]}, eval_fraction=0.5
        )

        assert len(lines(run.path / "eval-qa.jsonl")) == 6
        assert len(lines(run.path / "eval-other.jsonl")) == 2
        assert run.metrics.keys() >= {"eval_qa_loss", "eval_other_perplexity", "eval_loss"}

    def test_and_other_data_to_measure_on_are_refused_together(self, fit, tmp_path):
        with pytest.raises(LmkitError, match="both say what to measure on; give one"):
            fit(tmp_path / "run", eval_fraction=0.2, eval_data=ROWS)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, True, "0.2"])
    def test_is_a_fraction(self, fit, tmp_path, fraction):
        with pytest.raises(
            LmkitError, match=r"eval_fraction is .*; expected a number between 0 and 1"
        ):
            fit(tmp_path / "run", eval_fraction=fraction)

    def test_cannot_be_another_when_a_run_is_resumed(self, fit, sampled):
        with pytest.raises(ModelError, match=r"its eval_fraction was 0\.25 and is 0\.5 now"):
            fit(sampled.path, resume=True, eval_fraction=0.5, **STEPS)


class Cut(Exception):
    """Stands for a crash."""


class TestSampledAnswers:
    def test_are_kept_from_before_training_from_each_measuring_and_from_its_end(self, sampled):
        found = lines(sampled.path / "samples.jsonl")

        assert [line["step"] for line in found] == [0, 0, 3, 3, 6, 6]
        assert found[0].keys() == {"step", "record", "asked", "reference", "answer"}
        assert found[0]["record"] == found[2]["record"] == lines(sampled.path / "eval.jsonl")[0]
        assert found[0]["reference"] == found[0]["record"]["completion"].strip()

    def test_at_the_end_are_the_runs_own(self, sampled):
        from lmkit.answering import open_answerer

        last = lines(sampled.path / "samples.jsonl")[-1]

        assert open_answerer(sampled)(last["record"], seed=42).value == last["answer"]

    def test_change_nothing_about_the_training(self, fit, sampled, tmp_path):
        """Though the task's answers are drawn, and so is dropout."""
        task = QA.evolve(generation=lk.Generation(max_new_tokens=4, temperature=1))
        one = fit(tmp_path / "one", task=task, sample=3, **STEPS)
        other = fit(tmp_path / "other", task=task, **STEPS)

        first, second = ((run.path / "model.safetensors").read_bytes() for run in (one, other))
        assert first == second

    def test_of_a_resumed_run_are_those_of_one_without_an_interruption(
        self, fit, sampled, tmp_path, monkeypatch
    ):
        def crash(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Cut

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "on_step_end", crash)
            with pytest.raises(Cut):
                fit(tmp_path / "run", eval_fraction=0.25, sample=2, **STEPS)
        resumed = fit(tmp_path / "run", resume=True, eval_fraction=0.25, sample=2, **STEPS)

        whole = (sampled.path / "samples.jsonl").read_text("utf-8")
        assert (resumed.path / "samples.jsonl").read_text("utf-8") == whole

    def test_are_shown_side_by_side(self, fit, tmp_path, capsys):
        fit(tmp_path / "run", sample=1)

        shown = capsys.readouterr()
        assert shown.out == ""
        assert "asked" in shown.err
        assert "step 0" in shown.err
        assert "step 2" in shown.err
        assert "0은 무엇인가요?" in shown.err

    def test_are_of_unlike_records(self, fit, tmp_path):
        run = fit(tmp_path / "run", data=[*ROWS[:1] * 5, *ROWS[1:3]], sample=3)

        assert len({line["asked"] for line in lines(run.path / "samples.jsonl")}) == 3

    def test_of_a_mixture_are_of_each_task(self, fit, tmp_path):
        mixture = lk.mix({"qa": 1, QA.evolve(name="other"): 1})

        run = fit(tmp_path / "run", task=mixture, data={"qa": ROWS, "other": ROWS}, sample=1)

        assert [line["task"] for line in lines(run.path / "samples.jsonl")] == ["qa", "other"] * 2

    @pytest.mark.parametrize("sample", [-1, True, 1.5, "2"])
    def test_are_so_many(self, fit, tmp_path, sample):
        with pytest.raises(LmkitError, match=r"sample is .*; expected how many records to answer"):
            fit(tmp_path / "run", sample=sample)

    def test_need_a_record_that_leaves_room_for_an_answer(self, fit, tmp_path):
        long = [{"prompt": "하나 둘 셋 " * 100, "completion": "수입니다"}]

        with pytest.raises(RecordError, match="no record's prompt leaves room"):
            fit(tmp_path / "run", data=long, sample=1)

        assert not list(tmp_path.glob("run/*"))

    def test_of_labels_are_labels(self, fit, tmp_path):
        records = [{"text": row["prompt"], "answer": "Yes"} for row in ROWS]

        run = fit(tmp_path / "run", task="classify", data=records, sample=1)

        found = lines(run.path / "samples.jsonl")
        assert [line["reference"] for line in found] == ["Yes", "Yes"]
        assert {line["answer"] for line in found} <= {"Yes", "No"}

    def test_of_an_article_that_is_too_long_are_of_what_is_read_of_it(self, fit, tmp_path):
        pair = lk.scratch("t5", num_layers=1, d_model=16, num_heads=2, d_kv=8, d_ff=16)
        task = lk.get_task("summarize").evolve(
            collator=lk.Seq2SeqCollator(max_source_length=16, max_target_length=8)
        )
        records = [{"article": row["prompt"] * 5, "summary": "수"} for row in ROWS]

        run = fit(tmp_path / "run", task=task, model=pair, data=records, sample=1)

        assert len(lines(run.path / "samples.jsonl")) == 2


def test_bad_records_to_measure_are_told_of_by_their_own_files_name(tmp_path, tokenizer):
    good = '{"prompt": "a", "completion": "b"}\n'
    learned, measured = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    learned.write_text(good)
    measured.write_text(good + "{\n")
    task = lk.get_task("qa")
    sources = {"data": learned, "eval_data": measured, "eval_fraction": None}
    (lesson,) = open_lessons(task, **sources, seed=0, on_bad_row="skip")

    lesson = encoded(lesson, task, tokenizer, how=Preparation(cache=False, on_bad_row="skip"))
    with pytest.warns(SkippedRows) as told:
        write_skipped(tmp_path, [lesson])

    (warning,) = told
    assert str(warning.message).startswith(f"{measured}: 1 bad row is left out\n  {measured}:2: ")
    listed = json.loads((tmp_path / "skipped.jsonl").read_text("utf-8"))
    assert listed["where"] == f"{measured}:2"
