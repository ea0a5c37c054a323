from collections import Counter
from typing import ClassVar

import attrs
import numpy as np
import pytest

import lmkit as lk
from lmkit.collating import RowFeed
from lmkit.collating.chance import row_keys
from lmkit.encoding import Encoded
from lmkit.errors import TaskError, UnknownName, UnknownTask
from lmkit.family import Family
from lmkit.mixing import MixedFeed, Mixture, counts
from lmkit.registry import get_task, one_task, task_in
from lmkit.saving.jsonform import from_json, to_json

QA, ALPACA, CHAT = map(lk.get_task, ("qa", "alpaca", "chat"))
KO = QA.evolve(name="ko-qa")


@attrs.frozen
class PairCollator:
    """A seq2seq collator's outside."""

    max_length: int = 8
    family: ClassVar = Family.SEQ2SEQ

    def encode(self, segments, tokenizer, *, delimited): ...
    def whole(self, segments, tokenizer, *, delimited): ...
    def prompt(self, segments, tokenizer, *, delimited): ...
    def within(self, most, target): ...
    def feed(self, rows, tokenizer): ...
    def measured(self, rows, tokenizer): ...
    def collate(self, rows, pad_id): ...


@attrs.frozen
class OtherCausalCollator(PairCollator):
    family: ClassVar = Family.CAUSAL


def rows(n):
    return RowFeed([Encoded(np.array([index]), np.array([index])) for index in range(n)])


def feed(weights, sizes, seed=0):
    tasks = [QA.evolve(name=f"t{index}") for index in range(len(weights))]
    mixture = lk.mix(dict(zip(tasks, weights, strict=True)), seed=seed)
    return MixedFeed(mixture, [rows(size) for size in sizes])


def drawn(feed, number):
    """Return the (task, row) of every place in an epoch."""
    epoch = feed.epoch(number)
    found = [epoch.draw(index, np.random.default_rng(0)) for index in range(len(epoch))]
    return [(row.group, int(row.input_ids[0])) for row in found]


class TestAMixture:
    def test_takes_tasks_and_names(self):
        mixture = lk.mix({KO: 3, "alpaca": 1}, seed=5)

        assert mixture.tasks == (KO, ALPACA)
        assert (mixture.weights, mixture.seed) == ((3.0, 1.0), 5)
        assert repr(mixture) == "mix({'ko-qa': 3, 'alpaca': 1}, seed=5)"

    def test_finds_its_tasks_by_name(self):
        mixture = lk.mix({KO: 3, "alpaca": 1})

        assert mixture.task("ko-qa") is KO
        with pytest.raises(UnknownName, match=r"no task in the mixture ko-qa\+alpaca named 'qa'"):
            mixture.task("qa")

    def test_makes_batches_as_its_longest_task_does(self):
        assert lk.mix({QA: 1, ALPACA: 1}).collator == ALPACA.collator

    def test_comes_back_from_json(self):
        mixture = lk.mix({KO.rename(q="prompt"): 3, "alpaca": 0.5}, seed=2)

        assert from_json(to_json(mixture), Mixture) == mixture

    def test_of_unlike_families_is_refused_with_both_names(self):
        other = QA.evolve(name="pairs", collator=PairCollator())

        with pytest.raises(
            TaskError, match=r"'qa' is a causal task and 'pairs' a seq2seq one, so one model cannot"
        ):
            lk.mix({"qa": 1, other: 1})

    def test_of_unlike_collators_is_refused_with_both_names(self):
        other = QA.evolve(name="other", collator=OtherCausalCollator())

        with pytest.raises(TaskError, match=r"'qa' .* CausalCollator and 'other' .* OtherCausal"):
            lk.mix({"qa": 1, other: 1})

    def test_of_two_tasks_of_one_name_is_refused(self):
        with pytest.raises(TaskError, match=r"two tasks named 'qa'; .*evolve\(name=\.\.\.\)"):
            lk.mix({QA: 1, QA.rename(q="prompt"): 1})

    @pytest.mark.parametrize("weights", [{}, {"qa": 1}])
    def test_of_fewer_than_two_is_refused(self, weights):
        with pytest.raises(TaskError, match="needs two tasks"):
            lk.mix(weights)

    @pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), True, "3", None])
    def test_with_a_weight_that_is_none_is_refused(self, weight):
        with pytest.raises(TaskError, match=r"weight is .*; expected a number above 0"):
            lk.mix({"qa": 1, "alpaca": weight})

    def test_of_an_unknown_task_names_the_near_one(self):
        with pytest.raises(UnknownTask, match="close to: alpaca"):
            lk.mix({"qa": 1, "alpcaa": 1})

    def test_without_weights_is_told_the_form(self):
        with pytest.raises(TaskError, match="takes tasks with their weights"):
            lk.mix([QA, ALPACA])


class TestCounts:
    @pytest.mark.parametrize(
        ("weights", "total", "wanted"),
        [
            ([3, 1], 400, [300, 100]),
            ([3, 1], 10, [8, 2]),
            ([1, 1, 1], 100, [34, 33, 33]),
            ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
            ([0.1, 0.2, 0.7], 1000, [100, 200, 700]),
            # Source: the Hare quota's example in Wikipedia's article on largest remainders.
            ([47000, 16000, 15900, 12000, 6000, 3100], 10, [5, 2, 1, 1, 1, 0]),
        ],
    )
    def test_are_by_the_largest_remainder(self, weights, total, wanted):
        assert counts(weights, total) == wanted

    def test_add_up_and_are_off_by_less_than_one(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            weights = (rng.random(rng.integers(2, 6)) + 0.01).tolist()
            total = int(rng.integers(1, 500))
            found = counts(weights, total)

            assert sum(found) == total
            for count, weight in zip(found, weights, strict=True):
                assert abs(count - total * weight / sum(weights)) < 1


class TestAnEpoch:
    def test_has_exact_proportions_whatever_the_sizes(self):
        for sizes in ([30, 10], [10, 30], [1, 39], [39, 1]):
            assert Counter(group for group, _ in drawn(feed([3, 1], sizes), 0)) == {0: 30, 1: 10}

    def test_is_as_long_as_the_data_of_all_tasks(self):
        assert len(feed([5, 1], [30, 10])) == 40

    def test_uses_each_row_of_a_task_as_often_as_any_other(self):
        mixed = feed([3, 1], [8, 32])  # 30 of 8 rows, and 10 of 32, in an epoch
        seen = Counter(place for number in range(16) for place in drawn(mixed, number))

        assert set(seen.values()) == {5, 16 * 30 // 8}
        assert len(seen) == 40

    def test_goes_on_in_a_large_task_where_the_last_one_stopped(self):
        mixed = feed([1, 1], [4, 12])  # 8 of either in an epoch
        first, second = ({row for group, row in drawn(mixed, n) if group == 1} for n in (0, 1))

        assert len(first) == 8
        assert first | second == set(range(12))

    def test_is_the_same_for_the_same_seed_and_number_only(self):
        mixed = feed([3, 1], [9, 9])

        assert drawn(mixed, 1) == drawn(feed([3, 1], [9, 9]), 1)
        assert drawn(mixed, 1) != drawn(mixed, 0)
        assert drawn(mixed, 1) != drawn(feed([3, 1], [9, 9], seed=1), 1)

    def test_mixes_the_tasks_rather_than_setting_them_end_to_end(self):
        groups = [group for group, _ in drawn(feed([1, 1], [200, 200]), 0)]

        assert 60 < sum(groups[:200]) < 140

    def test_without_a_row_of_some_task_is_refused(self):
        with pytest.raises(TaskError, match="in an epoch of 20 rows there is none of task 't1'"):
            feed([1000, 1], [10, 10])


MIXTURE = "import lmkit as lk\nmixture = lk.mix({'qa': 3, 'alpaca': 1})\nqa = lk.get_task('qa')\n"


class TestLookingOneUp:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "mixed.py"
        path.write_text(MIXTURE, "utf-8")
        return path

    def test_in_a_python_file(self, file):
        assert get_task(f"{file}:mixture") == lk.mix({"qa": 3, "alpaca": 1})

    def test_where_one_task_is_needed_is_refused_with_their_names(self, file):
        with pytest.raises(TaskError, match="is a mixture of the tasks qa, alpaca, and here one"):
            one_task(f"{file}:mixture")
        with pytest.raises(TaskError, match="is a mixture"):
            lk.encode(f"{file}:mixture", [], None)

    def test_in_a_run_gives_the_task_that_is_chosen(self, tmp_path):
        from lmkit.saving.jsonform import dump

        mixture = lk.mix({KO: 3, "alpaca": 1})
        (tmp_path / "task.json").write_text(dump(to_json(mixture)), "utf-8")

        assert get_task(tmp_path) == mixture
        assert task_in(tmp_path, "ko-qa") == KO
        assert task_in(tmp_path, CHAT) == CHAT
        with pytest.raises(TaskError, match=r"choose one with task= \(--task\): ko-qa, alpaca"):
            task_in(tmp_path)


class TestPackedRows:
    TASKS = tuple(
        QA.evolve(name=name, collator=lk.CausalCollator(max_length=32, pack=True))
        for name in ("short", "long")
    )

    def epochs(self, weights, count=1):
        """Return how many rows of each task some epochs have, and the task of each sequence."""
        sizes = {"short": (4, 90), "long": (15, 40)}
        feeds = []
        for task in self.TASKS:
            length, n_rows = sizes[task.name]
            ids = np.arange(length)
            feeds.append(task.collator.feed([Encoded(ids, ids)] * n_rows, None))
        mixed = MixedFeed(lk.mix(dict(zip(self.TASKS, weights, strict=True))), feeds)
        n_rows = [0, 0]
        for number in range(count):
            epoch = mixed.epoch(number, 1)
            for one in epoch.draw_all(range(len(epoch)), row_keys(0, 0, range(len(epoch)))):
                n_rows[one.group] += len(one.lengths)
                assert set(one.lengths.tolist()) == {4 if one.group == 0 else 15}
        return n_rows

    def test_are_shared_out_by_rows_though_sequences_hold_unlike_numbers(self):
        one = self.epochs((3, 1), count=10)

        assert one[0] / one[1] == pytest.approx(3, rel=0.05)
        assert sum(one) == pytest.approx(1_300, rel=0.05)

    def test_are_all_there_once_where_weights_are_the_sizes(self):
        assert self.epochs((90, 40)) == [90, 40]

    def test_do_not_mix_with_padded_ones(self):
        padded = self.TASKS[1].evolve(collator=lk.CausalCollator(max_length=32))

        with pytest.raises(TaskError, match="one packs its rows and the other does not"):
            lk.mix({self.TASKS[0]: 1, padded: 1})
