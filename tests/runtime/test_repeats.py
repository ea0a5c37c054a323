"""Where the end of a text stood before, against a search through the whole of it."""

import numpy as np
import pytest

from lmkit.runtime import repeats
from lmkit.runtime.repeats import MOST_MATCHED, Repeats


def longest(tokens):
    """Return the length of the longest suffix that stands earlier, and the nearest place behind one."""
    best, behind = 0, 0
    for end in range(len(tokens) - 1):
        size = 0
        while size <= end and size < MOST_MATCHED and tokens[end - size] == tokens[-1 - size]:
            size += 1
        if size >= max(2, best):
            best, behind = size, end + 1
    return best, behind


@pytest.mark.parametrize("n_kinds", [1, 2, 3, 8, 40])
def test_it_finds_what_a_search_finds(n_kinds, monkeypatch):
    monkeypatch.setattr(repeats, "N_TRIED", 10_000)
    tokens = np.random.default_rng(n_kinds).integers(0, n_kinds, 120).tolist()
    text = Repeats(tokens[:50])

    for place, token in enumerate(tokens[50:], start=51):
        text.append(token)
        size, behind = longest(tokens[:place])

        assert text.match() == size
        if size:
            so_far = list(tokens[:place])
            for index in range(behind, behind + 6):
                so_far.append(so_far[index])
            assert text.guess(6) == so_far[place:]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 2, 3, 2, 1]])
def test_it_finds_nothing_where_no_two_tokens_stood_before(tokens):
    assert Repeats(tokens).match() == 0


def test_a_circle_is_guessed_to_go_on():
    text = Repeats([1, 2, 3, 1, 2, 3])

    assert text.match() == 3
    assert text.guess(7) == [1, 2, 3, 1, 2, 3, 1]


def test_it_compares_a_few_places_only_however_often_a_pair_stood(monkeypatch):
    text = Repeats([1, 2] * 1000)
    monkeypatch.setattr(repeats, "N_TRIED", 1)

    assert text.match() == MOST_MATCHED
    assert text.guess(2) == [1, 2]
