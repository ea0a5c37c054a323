import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmkit as lk
from lmkit.collating.packing import PackedRows, best_fit, fill_exactly, packing_fill
from lmkit.encoding import IGNORE, Encoded

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def longest_first(lengths):
    return np.argsort(-lengths, kind="stable")


def plain_best_fit(lengths, max_length, order):
    """Put each row where the least room stays, looking at every sequence: the definition."""
    room, which = [], [0] * len(lengths)
    for row in order:
        fitting = [index for index, left in enumerate(room) if left >= lengths[row]]
        if not fitting:
            fitting, room = [len(room)], [*room, max_length]
        best = min(fitting, key=lambda index: room[index])
        room[best] -= lengths[row]
        which[row] = best
    return room, which


class TestBestFit:
    @given(LENGTHS)
    def test_never_overfills_a_sequence(self, found):
        lengths = np.array(found)
        which = best_fit(lengths, 40, longest_first(lengths))

        assert np.bincount(which, weights=lengths).max() <= 40
        assert sorted(set(which.tolist())) == list(range(which.max() + 1))

    @given(LENGTHS)
    def test_leaves_the_room_that_its_definition_leaves(self, found):
        lengths = np.array(found)
        order = longest_first(lengths)
        which = best_fit(lengths, 40, order)

        ours = 40 - np.bincount(which, weights=lengths)
        assert sorted(ours) == sorted(plain_best_fit(found, 40, order)[0])

    def test_fills_a_hole_exactly_where_it_can(self):
        lengths = np.array([7, 6, 4, 3])

        assert best_fit(lengths, 10, np.arange(4)).tolist() == [0, 1, 1, 0]


class TestFillingExactly:
    @given(LENGTHS, st.integers(0, 3))
    def test_puts_each_row_into_a_sequence_that_holds_it(self, found, seed):
        sizes = np.sort(found)
        which = fill_exactly(sizes, 40, np.random.default_rng(seed))

        assert np.bincount(which, weights=sizes).max() <= 40
        assert sorted(set(which.tolist())) == list(range(which.max() + 1))

    def test_finds_one_or_two_rows_for_the_room_that_is_left(self):
        sizes = np.array([3, 4, 4, 6, 7, 9, 10, 17])
        which = fill_exactly(sizes, 20, np.random.default_rng(0))

        assert np.bincount(which, weights=sizes).tolist() == [20, 20, 20]

    def test_does_not_take_one_row_twice(self):
        sizes = np.array([5, 10])

        assert fill_exactly(sizes, 20, np.random.default_rng(0)).tolist() == [0, 0]


class TestTheFill:
    def test_is_no_less_than_that_of_best_fit(self):
        for seed in range(20):
            sizes = np.sort(np.random.default_rng(seed).integers(5, 41, 50))
            needed = best_fit(sizes, 40, longest_first(sizes)).max() + 1

            assert packing_fill(sizes, 40) >= sizes.sum() / (needed * 40)

    def test_is_the_share_of_places_with_a_token(self):
        assert packing_fill([10, 5], 10) == 0.75

    def test_is_whole_where_there_is_nothing_to_pack(self):
        assert packing_fill([], 10) == 1.0

    @pytest.mark.parametrize("data", ["alpaca_en", "chat_messages_en", "chat_messages_ko"])
    def test_is_nearly_whole_on_real_rows(self, data, load_shared, shared_rows):
        task = lk.get_task("alpaca" if data.startswith("alpaca") else "chat")
        records = shared_rows(f"{data}.jsonl", 2_000)
        rows = lk.encode(
            task.evolve(collator=lk.CausalCollator(512)), records, load_shared("qwen2")
        )

        assert packing_fill([len(each) for each in rows], 512) >= 0.97

    @pytest.mark.parametrize("max_length", [512, 1024])
    def test_is_nearly_whole_for_many_rows_of_any_length(self, max_length):
        lengths = np.random.default_rng(0).integers(1, max_length, 5_000)

        assert packing_fill(lengths, max_length) > 0.99


def row(length, start=0):
    ids = np.arange(start, start + length)
    return Encoded(ids, ids)


def rows_of(lengths):
    """Return rows of which no two share an id."""
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    return [row(length, 1 + start) for length, start in zip(lengths, starts, strict=True)]


def sequences(feed, number=0, seed=0):
    epoch = feed.epoch(number, seed)
    return [epoch.draw(index, None) for index in range(len(epoch))]


def companions(feed, number, seed=0):
    """Return which rows, by their first ids, are packed together."""
    return {
        frozenset(part[0] for part in np.split(one.input_ids, np.cumsum(one.lengths)[:-1]))
        for one in sequences(feed, number, seed)
    }


class TestAnEpoch:
    @given(LENGTHS, st.integers(0, 5))
    def test_has_each_learned_token_once(self, lengths, number):
        rows = rows_of(lengths)
        found = sequences(PackedRows(rows, 40), number)

        learned = sorted(int(t) for one in found for t in one.labels if t != IGNORE)
        assert learned == sorted(int(t) for each in rows for t in each.labels[1:])
        assert sum(one.n_learned for one in found) == sum(each.n_learned for each in rows)

    @given(LENGTHS)
    def test_has_as_many_sequences_as_any_other(self, lengths):
        feed = PackedRows(rows_of(lengths), 40)

        assert {len(feed.epoch(number)) for number in range(4)} == {len(feed)}

    @given(LENGTHS)
    def test_has_no_sequence_that_is_too_long_or_empty(self, lengths):
        for one in sequences(PackedRows(rows_of(lengths), 40)):
            assert 0 < len(one) <= 40
            assert one.lengths.sum() == len(one)

    def test_packs_other_rows_together_than_the_one_before(self):
        lengths = np.random.default_rng(3).permutation(np.arange(2, 33)).tolist()
        feed = PackedRows(rows_of(lengths), 64)

        assert companions(feed, 0) != companions(feed, 1)
        assert companions(feed, 0) != companions(feed, 0, seed=1)
        assert companions(feed, 1) == companions(PackedRows(rows_of(lengths), 64), 1)

    def test_leaves_out_rows_in_which_nothing_is_learned(self):
        nothing = Encoded(np.array([1, 2]), np.array([1, IGNORE]))
        feed = PackedRows([row(3), nothing], 8)

        assert feed.n_rows == 1
        assert sequences(feed)[0].input_ids.tolist() == [0, 1, 2]


class TestAPackedBatch:
    def test_starts_its_positions_again_at_every_row(self):
        found = sequences(PackedRows([row(3), row(2), row(4)], 5))
        batch = lk.CausalCollator(max_length=5).collate(found, pad_id=9)

        assert sorted(batch) == ["input_ids", "labels", "position_ids"]
        assert sorted(batch["position_ids"].tolist()) == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
        assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}

    def test_learns_no_rows_first_token_from_the_row_before(self):
        found = sequences(PackedRows([row(3, 10), row(2, 20)], 5))
        labels = lk.CausalCollator(max_length=5).collate(found, pad_id=9)["labels"]

        assert labels.tolist() == [[IGNORE, 11, 12, IGNORE, 21]]

    def test_ignores_its_padding(self):
        collator = lk.CausalCollator(max_length=8, pad_to_max_length=True)
        batch = collator.collate(sequences(PackedRows([row(3)], 8)), pad_id=1)

        assert batch["input_ids"].tolist() == [[0, 1, 2, 1, 1, 1, 1, 1]]
        assert batch["labels"].tolist() == [[IGNORE, 1, 2, *[IGNORE] * 5]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]


def test_a_collator_packs_where_it_is_told_to():
    rows = [row(3), row(2)]

    assert len(lk.CausalCollator(max_length=5, pack=True).feed(rows, None)) == 1
    assert len(lk.CausalCollator(max_length=5).feed(rows, None)) == 2
