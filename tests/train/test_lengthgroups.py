import numpy as np
import pytest

from lmkit.collating import RowFeed
from lmkit.collating.grouping import grouped
from lmkit.encoding import Encoded
from lmkit.family import Family
from lmkit.train.feeding import TrainingRows
from lmkit.train.lengthgroups import LengthGroups

LENGTHS = np.random.default_rng(0).integers(1, 500, 1_003)


def padding(order, size=8):
    """Return the share of places in batches that hold no token."""
    whole = LENGTHS[order[: len(order) - len(order) % size]].reshape(-1, size)
    return 1 - whole.sum() / (whole.max(axis=1).sum() * size)


def drawn(seed=0):
    return grouped(LENGTHS, 8, np.random.default_rng(seed))


class TestAnOrder:
    def test_has_every_row_once(self):
        assert sorted(drawn().tolist()) == list(range(len(LENGTHS)))

    def test_leaves_little_padding(self):
        assert padding(np.arange(len(LENGTHS))) > 0.35
        assert padding(drawn()) < 0.08

    def test_has_long_batches_at_any_time(self):
        means = LENGTHS[drawn()[:1_000]].reshape(-1, 8).mean(axis=1)

        assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.25

    def test_puts_other_rows_together_each_time(self):
        first, second = (
            {frozenset(b) for b in drawn(s)[:1_000].reshape(-1, 8).tolist()} for s in (0, 1)
        )

        assert len(first & second) < len(first) / 20

    @pytest.mark.parametrize("n_rows", [0, 1, 7, 8, 9, 31])
    def test_of_few_rows_has_each_once(self, n_rows):
        order = grouped(np.arange(n_rows), 8, np.random.default_rng(0))

        assert sorted(order.tolist()) == list(range(n_rows))


class TestASampler:
    def test_gives_the_same_order_for_the_same_seed_and_epoch(self):
        def order(seed, epoch):
            rows = TrainingRows(
                RowFeed([Encoded(np.zeros(n, int), np.zeros(n, int)) for n in LENGTHS]), seed
            )
            rows.epoch = epoch
            return list(LengthGroups(rows, 8))

        assert order(1, 0) == order(1, 0)
        assert order(1, 0) != order(1, 1)
        assert order(1, 0) != order(2, 0)

    def test_counts_what_is_read_and_what_is_written_of_a_seq2seq_row(self):
        row = Encoded(np.zeros(3, int), np.zeros(5, int), family=Family.SEQ2SEQ)

        assert TrainingRows(RowFeed([row]), 0).lengths.tolist() == [8]
