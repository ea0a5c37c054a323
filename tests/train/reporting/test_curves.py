import json
import re
from pathlib import Path

import pytest

from lmkit.train.reporting import curves
from lmkit.train.reporting.curves import curve, read_steps, sayings


def steps_of(losses=(), measured=(), **others):
    """Return figures as they are read from a run: a loss each step, and what was measured."""
    steps = {step: {"loss": loss} for step, loss in enumerate(losses, start=1)}
    for name, figures in others.items():
        for step, figure in enumerate(figures, start=1):
            steps.setdefault(step, {})[name] = figure
    for step, loss in measured:
        steps.setdefault(step, {})["eval_loss"] = loss
    return dict(sorted(steps.items()))


WORDS = json.loads((Path(curves.__file__).parent / "report.words.json").read_text("utf-8"))


def read_out(said):
    return [WORDS["en"][saying.word].format(**saying.figures) for saying in said]


def warnings_of(steps, tasks=()):
    return read_out(saying for saying in sayings(steps, tasks) if saying.level == "warning")


class TestReading:
    def test_figures_of_one_step_stand_together_in_the_order_of_steps(self, tmp_path):
        lines = [{"step": 2, "loss": 1.5}, {"step": 1, "loss": 2}, {"step": 2, "eval_loss": 1.75}]
        (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

        steps = read_steps(tmp_path)

        assert list(steps.items()) == [(1, {"loss": 2.0}), (2, {"loss": 1.5, "eval_loss": 1.75})]
        assert curve(steps, "loss") == [(1, 2.0), (2, 1.5)]

    def test_half_a_line_is_left_out(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')

        assert read_steps(tmp_path) == {1: {"loss": 2.0}}

    def test_a_run_that_logged_nothing_has_no_steps(self, tmp_path):
        assert read_steps(tmp_path) == {}


class TestWhatIsSaid:
    def test_a_run_that_learned_gets_no_warning(self):
        steps = steps_of([4, 3, 2, 1], [(2, 3.5), (4, 2.5)])

        assert read_out(sayings(steps)) == [
            "The training loss fell from 4.000 to 1.000.",
            "The evaluation loss fell from 3.500 to 2.500.",
        ]

    @pytest.mark.parametrize("losses", [[2, 2, 2, 2], [1, 2, 3, 4], [1, 1.5]])
    def test_a_loss_that_did_not_fall_is_told(self, losses):
        (said,) = warnings_of(steps_of(losses, [(1, 3.0)]))

        assert said.startswith("The training loss did not fall: it was")

    def test_one_batch_that_was_easy_does_not_hide_it(self):
        losses = [3, 3, 3, 3, 3, 3, 3.2, 1.0]

        assert not warnings_of(steps_of(losses, [(1, 3.0)]))
        assert warnings_of(steps_of([*losses[:-2], 3.2, 2.9], [(1, 3.0)]))

    def test_records_known_by_heart_are_told(self):
        (said,) = warnings_of(steps_of([4, 3, 2, 1], [(1, 3.5), (2, 3.0), (4, 3.4)]))

        assert "rises while the training loss falls" in said
        assert "lowest, 3.000, at step 2 and is 3.400 at step 4" in said
        assert "load_best_model_at_end" in said

    def test_a_rise_with_the_training_loss_is_another_one(self):
        (said, *_) = warnings_of(steps_of([4, 2, 3, 3.5], [(2, 3.0), (4, 3.4)]))

        assert said == "The evaluation loss was lowest, 3.000, at step 2 and is 3.400 at step 4."

    def test_an_evaluation_that_brought_nothing_is_told(self):
        (said,) = warnings_of(steps_of([4, 3, 2, 1], [(1, 3.0), (4, 3.0)]))

        assert said.startswith("The evaluation loss did not fall")

    def test_a_rise_of_less_than_one_in_a_hundred_is_none(self):
        assert not warnings_of(steps_of([4, 3, 2, 1], [(1, 3.5), (2, 3.0), (4, 3.02)]))

    def test_a_loss_that_is_no_number_is_told_with_its_step(self):
        (said,) = warnings_of(steps_of([4, float("nan"), 2], [(1, 2.0)]))

        assert said.startswith("The training loss is no number from step 2 on.")

    def test_a_task_of_a_mixture_that_did_not_learn_is_named(self):
        steps = steps_of([4, 3, 2, 1], [(1, 2.0)], loss_qa=[3, 2, 2, 1], loss_한국어=[1, 1, 1, 2])

        assert warnings_of(steps, ("qa", "한국어")) == [
            "The training loss of 한국어 did not fall: it was 1.000 at first and is 2.000 now."
        ]

    def test_what_was_not_measured_is_told_with_what_to_do(self):
        notes = read_out(sayings(steps_of([2])))

        assert any("--set logging_steps=1" in note for note in notes)
        assert any("--eval-fraction" in note for note in notes)

    def test_it_is_said_in_both_languages_with_the_same_figures(self):
        places = {
            language: {word: set(re.findall(r"{(\w+)}", text)) for word, text in said.items()}
            for language, said in WORDS.items()
        }

        assert places["en"] == places["ko"]
