import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkit.collating.packing import best_fit, packing_fill

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


class TestTheFill:
    def test_is_the_share_of_places_with_a_token(self):
        assert packing_fill([10, 5], 10) == 0.75

    def test_is_whole_where_there_is_nothing_to_pack(self):
        assert packing_fill([], 10) == 1.0

    @pytest.mark.parametrize("max_length", [512, 1024])
    def test_is_nearly_whole_for_many_rows_of_any_length(self, max_length):
        lengths = np.random.default_rng(0).integers(1, max_length, 5_000)

        assert packing_fill(lengths, max_length) > 0.99
