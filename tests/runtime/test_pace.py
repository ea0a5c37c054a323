"""How many tokens are guessed: what pays by measured times and luck, within what failures may cost."""

import numpy as np
import pytest

from lmkit.runtime.pace import MOST_GUESSED, Odds, Pace


def settled(cost, steps=200):
    """Return a pace that has seen steps of 10 ms, and what `cost` gives for more tokens."""
    pace = Pace()
    for _ in range(steps):
        pace.stepped(0.01)
    for n_tokens in (2, 4, 8, 16, 32) * 3:
        pace.verified(n_tokens, 0.01 * cost(n_tokens), n_tokens)
    return pace


@pytest.mark.parametrize("cost", [lambda n: 1.4 + 0.07 * n, lambda n: 1 + 0.19 * n])
def test_costs_are_learned(cost):
    pace = settled(cost)

    for n_tokens in (2, 6, 12, 24):
        assert pace.cost(n_tokens) == pytest.approx(cost(n_tokens), rel=0.15)


def test_measurements_that_something_disturbed_change_little():
    pace = settled(lambda n: 1 + 0.19 * n)
    for _ in range(5):
        pace.verified(8, 1.0, 9)  # forty times as long as usual

    assert pace.cost(8) < 2 * (1 + 0.19 * 8)


def test_the_likelier_a_guess_the_more_are_made():
    pace = settled(lambda n: 1 + 0.1 * n)
    counts = [pace.best_count(chance, MOST_GUESSED) for chance in (0.1, 0.3, 0.6, 0.8, 0.95)]

    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] >= 15
    assert pace.best_count(0.95, 3) == 3


def test_nothing_is_guessed_where_reading_more_costs_as_much_as_steps():
    assert settled(lambda n: n).best_count(0.9, MOST_GUESSED) == 0


@pytest.mark.parametrize("cost", [lambda n: 1.4 + 0.07 * n, lambda n: 1 + 0.19 * n])
def test_guesses_that_always_fail_cost_a_few_percent_at_most(cost):
    pace, odds = Pace(), Odds()
    rng = np.random.default_rng(0)
    seconds, n_written, n_drafts = 0.0, 0, 0
    while n_written < 1000:
        matched = int(rng.choice([0, 0, 0, 2, 3, 9]))
        count = pace.best_count(odds.chance(matched), MOST_GUESSED) if matched else 0
        took = 0.01 * (cost(count + 1) if count else 1)
        if count:
            n_drafts += 1
            odds.learn(matched, 0, count)
            pace.verified(count + 1, took, 1)
        else:
            pace.stepped(took)
        seconds += took
        n_written += 1

    assert n_drafts > 0
    assert seconds <= 1.05 * 0.01 * n_written


def test_luck_is_learned_apart_for_long_and_short_matches():
    odds = Odds()
    before = odds.chance(2), odds.chance(20)
    for _ in range(5):
        odds.learn(2, 0, 4)
        odds.learn(20, 8, 8)

    assert before[0] < before[1]
    assert odds.chance(2) < 0.2
    assert 0.9 < odds.chance(20) < 1
