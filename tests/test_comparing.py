"""Two models on the same records."""

import json
import math
import shutil

import pytest
from exported import GPT2, ROWS, tiny_bundle, tiny_run, train_tiny
from toys import wordpiece

import lmkit as lk
from lmkit.answering import open_answerer
from lmkit.comparing import compare
from lmkit.errors import BundleError, ModelError, RecordError, TaskError, UnknownOption
from lmkit.train.answering import open_model

__all__ = ["tiny_bundle", "tiny_run"]

pytestmark = pytest.mark.slow
FEW = ROWS[:4]
EXACT = lk.get_task("qa").evolve(metrics=[lk.ExactMatch()])


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Return a run of the same task and tokenizer that has hardly begun to learn."""
    folder = tmp_path_factory.mktemp("early") / "run"
    return train_tiny(folder, max_steps=1).path


@pytest.fixture(scope="module")
def found(early, tiny_run):
    return compare(early, tiny_run, data=FEW)


class TestAComparison:
    def test_has_both_answers_to_each_record(self, found, early, tiny_run):
        for side, folder in (("before", early), ("after", tiny_run)):
            wanted = open_answerer(folder).batch(FEW)
            assert [getattr(pair, side).value for pair in found.pairs] == [a.value for a in wanted]

        assert [pair.record for pair in found.pairs] == FEW
        assert [pair.reference for pair in found.pairs] == [row["completion"] for row in FEW]
        assert [pair.asked for pair in found.pairs] == [row["prompt"] for row in FEW]

    def test_measures_both_as_evaluate_does(self, found, early, tiny_run):
        for figures, folder in ((found.before, early), (found.after, tiny_run)):
            wanted = lk.evaluate(folder, data=FEW)
            assert figures["perplexity"] == pytest.approx(wanted["perplexity"])

        assert found.after["perplexity"] < found.before["perplexity"]
        assert found.same_tokens

    def test_of_a_run_and_its_bundle_agrees(self, tiny_run, tiny_bundle):
        same = compare(tiny_run, tiny_bundle, data=FEW)

        assert same.agreement == 1
        assert same.before["loss"] == pytest.approx(same.after["loss"], rel=1e-4)

    def test_counts_how_often_they_agree(self, found):
        agreeing = sum(pair.before.value == pair.after.value for pair in found.pairs)

        assert found.agreement == agreeing / len(FEW)

    def test_has_the_tasks_metrics(self, tiny_run, early):
        found = compare(early, tiny_run, data=FEW, task=EXACT)
        right = sum(pair.after.value == pair.reference for pair in found.pairs)

        assert found.after["exact_match"] == right / len(FEW)

    def test_answers_so_many_records_only(self, early, tiny_run):
        assert len(compare(early, tiny_run, data=FEW, limit=2).pairs) == 2

    def test_draws_the_same_for_the_same_seed(self, early, tiny_bundle):
        drawn = [
            compare(early, tiny_bundle, data=FEW, temperature=2, seed=seed) for seed in (1, 1, 2)
        ]
        answers = [[pair.after.value for pair in found.pairs] for found in drawn]

        assert answers[0] == answers[1]
        assert answers[0] != answers[2]

    def test_counts_what_it_does(self, early, tiny_bundle):
        seen = []

        compare(
            early, tiny_bundle, data=FEW, batch_size=3, on_progress=lambda *done: seen.append(done)
        )

        assert seen == [(3, 8), (4, 8), (7, 8), (8, 8)]


class TestAModelThatIsNoRun:
    @pytest.fixture
    def folder(self, early, tmp_path):
        """Return the early model as any other: without what makes it a run."""
        shutil.copytree(early, tmp_path / "model")
        for name in ("task.json", "run.json", "metrics.jsonl"):
            (tmp_path / "model" / name).unlink()
        return tmp_path / "model"

    def test_does_what_the_other_one_does(self, folder, early, tiny_bundle):
        wanted = compare(early, tiny_bundle, data=FEW)

        assert compare(folder, tiny_bundle, data=FEW).before == pytest.approx(wanted.before)
        assert compare(tiny_bundle, folder, data=FEW).after == pytest.approx(wanted.before)

    def test_does_the_task_that_is_named(self, folder, early):
        found = compare(folder, folder, data=FEW, task="qa")

        assert found.agreement == 1
        assert found.task.name == "qa"

    def test_needs_one_if_neither_has_any(self, folder):
        with pytest.raises(BundleError, match="neither a run"):
            compare(folder, folder, data=FEW)

    def test_answers_as_generate_would(self, folder, early):
        assert open_model(str(folder), "qa")(FEW[0]).value == open_answerer(early)(FEW[0]).value

    def test_that_is_nowhere_is_told(self, tiny_run):
        with pytest.raises(ModelError, match="'no/such/model' cannot be loaded"):
            compare("no/such/model", tiny_run, data=FEW)


class TestTwoThatDoNotCompare:
    def test_do_unlike_tasks_and_both_are_named(self, tiny_run, tiny_bundle):
        with pytest.raises(
            TaskError, match=r"first model does 'alpaca' and the second 'qa', whose for"
        ):
            compare(tiny_run, tiny_bundle, data=FEW, task="alpaca")

    def test_have_unlike_tokens_and_it_is_noted(self, tiny_run, tmp_path):
        other = train_tiny(
            tmp_path / "run",
            model=lk.scratch("gpt2", **GPT2),
            tokenizer=lk.train_tokenizer(kind="char", data=ROWS, task="qa"),
            max_steps=1,
        )

        assert not compare(other, tiny_run, data=FEW, limit=1).same_tokens


class TestBadInput:
    def test_a_record_that_does_not_fit(self, early, tiny_run):
        with pytest.raises(RecordError, match="column 'completion' is missing"):
            compare(early, tiny_run, data=[{"prompt": "x"}])

    def test_a_limit_that_leaves_nothing(self, early, tiny_run):
        with pytest.raises(RecordError, match="limit is 0, which leaves no record"):
            compare(early, tiny_run, data=FEW, limit=0)

    def test_a_misspelt_option(self, early, tiny_run):
        with pytest.raises(UnknownOption, match="close to: temperature"):
            compare(early, tiny_run, data=FEW, temprature=1)


def test_a_perplexity_is_finite(found):
    assert all(math.isfinite(figure) for figure in found.before.values())
    assert json.dumps(found.before)


class TestTasksOfOtherFamilies:
    def test_a_word_is_hidden_where_nothing_is_to_be_filled(self, tmp_path):
        bert = lk.scratch(
            "bert",
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
        rows = [{"text": "영화는 정말 좋았다!"}, {"text": "a [MASK], good films"}]
        run = lk.train(
            "mlm",
            model=bert,
            tokenizer=wordpiece(),
            data=rows[:1],
            output=tmp_path / "run",
            max_steps=1,
            use_cpu=True,
        )

        found = compare(run.path, run.path, data=rows)

        assert [pair.asked for pair in found.pairs] == ["영화는 [MASK] 좋았다!", rows[1]["text"]]
        assert found.pairs[0].reference == rows[0]["text"]
        assert "[MASK]" not in found.pairs[1].said[0]
        assert found.agreement == 1

    def test_an_article_that_is_too_long_is_read_as_far_as_in_training(self, tmp_path):
        collator = lk.Seq2SeqCollator(max_source_length=16, max_target_length=8)
        task = lk.get_task("summarize").evolve(collator=collator)
        rows = [{"article": "긴 글 하나 " * 9, "summary": "글"}]
        run = lk.train(
            task,
            model=lk.scratch("t5", num_layers=1, d_model=16, num_heads=2, d_kv=8, d_ff=16),
            tokenizer=lk.train_tokenizer(kind="char", data=rows, task=task),
            data=rows,
            output=tmp_path / "run",
            max_steps=1,
            use_cpu=True,
        )

        found = compare(run.path, run.path, data=rows, max_new_tokens=2)

        assert found.agreement == 1
        with pytest.raises(RecordError, match="its source has"):
            open_answerer(run)(rows[0])
