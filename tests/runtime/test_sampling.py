"""Specifications worked out by hand; nothing here needs torch."""

import numpy as np
import pytest

from lmkit.errors import ModelError, TaskError
from lmkit.generation import Generation
from lmkit.runtime.sampling import Sampler, draw

INF = float("inf")


def row(*scores):
    return np.array(scores, dtype=np.float32)


def ids(*history):
    return np.array(history, dtype=np.int64)


NOTHING_YET = ids()


def processed(logits, history=NOTHING_YET, n_new=0, eos_ids=(), **options):
    return Sampler(Generation(**options), eos_ids=eos_ids).process(logits, history, n_new)


def kept(logits, **options):
    """Return the positions that a draw at temperature 1 may take."""
    options = {"temperature": 1.0, **options}
    return np.flatnonzero(processed(logits, **options) > -INF).tolist()


def probabilities(*shares):
    return np.log(row(*shares))


def test_greedy_takes_the_first_of_the_best():
    assert Sampler(Generation()).choose(row(1, 3, 3, 2), ids(), 0) == 1


def test_without_options_the_choice_is_the_plain_argmax():
    assert Sampler(Generation(top_k=3, top_p=0.5, stop="x")).is_argmax
    assert not Sampler(Generation(repetition_penalty=1.1)).is_argmax
    assert not Sampler(Generation(temperature=1)).is_argmax


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 1},
        {"min_new_tokens": 3},
        {"forced_bos_token_id": 4},
        {"forced_eos_token_id": 2},
        {"suppress_tokens": (1, 5)},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": (0,)},
    ],
    ids=str,
)
def test_greedy_takes_the_best_of_the_penalised_whether_or_not_a_penalty_touches_it(options):
    rng = np.random.default_rng(0)
    for _ in range(200):
        n_new = int(rng.integers(0, 6))
        history = rng.integers(0, 6, 1 + n_new)
        logits = rng.integers(-3, 4, 6).astype(np.float32)  # with equal ones among them
        sampler = Sampler(Generation(**options), eos_ids=[2], limit=6, source=ids(1, 4, 1))

        wanted = int(sampler.process(logits, history, n_new).argmax())
        assert sampler.choose(logits, history, n_new) == wanted


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    scores = processed(row(2, -2, 0, 4), ids(0, 1, 2), repetition_penalty=2.0)

    np.testing.assert_array_equal(scores, row(1, -4, 0, 4))


def test_an_id_that_repeats_is_penalised_once():
    scores = processed(row(8, 1), ids(0, 0, 0), repetition_penalty=2.0)

    np.testing.assert_array_equal(scores, row(4, 1))


def test_a_forced_first_token_is_the_only_one_behind_a_single_id():
    forced = {"forced_bos_token_id": 2}

    np.testing.assert_array_equal(processed(row(5, 1, -9), ids(7), **forced), row(-INF, -INF, 0))
    np.testing.assert_array_equal(processed(row(5, 1, -9), ids(7, 7), **forced), row(5, 1, -9))


def test_a_forced_last_token_is_the_only_one_where_the_room_ends():
    options = Generation(forced_eos_token_id=1, max_new_tokens=100)
    sampler = Sampler(options, limit=3)

    tokens = [sampler.choose(row(5, 1, -9), ids(*[0] * n_new), n_new) for n_new in range(3)]

    assert tokens == [0, 0, 1]


def test_a_forced_token_wins_over_whatever_forbids_it():
    options = Generation(forced_eos_token_id=1, min_new_tokens=3, max_new_tokens=3, top_k=1)
    sampler = Sampler(options.override(temperature=2, no_repeat_ngram_size=1), eos_ids=[1])

    assert sampler.choose(row(5, 1, -9), ids(1, 0), 2) == 1


def test_a_forced_token_that_the_head_does_not_have_is_told():
    with pytest.raises(TaskError, match="forced_bos_token_id is 3; expected an id below 3, the si"):
        processed(row(5, 1, -9), ids(7), forced_bos_token_id=3)


def test_an_ngram_of_the_source_is_not_written():
    sampler = Sampler(Generation(encoder_no_repeat_ngram_size=2), source=ids(0, 1, 0, 2))

    np.testing.assert_array_equal(
        sampler.process(row(5, 4, 3, 2), ids(9, 0), 1), row(5, -INF, -INF, 2)
    )


def test_ids_beyond_the_logits_are_passed_over():
    options = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "min_new_tokens": 1}

    scores = processed(row(8, 1, 2), ids(0, 7, 3), eos_ids=(1, 9), **options)

    np.testing.assert_array_equal(scores, row(-INF, -INF, 2))


def test_a_bigram_is_not_written_twice():
    scores = processed(row(0, 0, 0, 0), ids(1, 2, 1, 3, 1), no_repeat_ngram_size=2)

    np.testing.assert_array_equal(scores, row(0, 0, -INF, -INF))


def test_a_trigram_is_forbidden_only_after_its_first_two():
    assert processed(row(0, 0, 0), ids(0, 1, 2, 1, 1), no_repeat_ngram_size=3).tolist() == [0, 0, 0]
    assert processed(row(0, 0, 0), ids(0, 1, 2, 0, 1), no_repeat_ngram_size=3)[2] == -INF


def test_unigrams_forbid_every_id_that_came():
    np.testing.assert_array_equal(
        processed(row(1, 2, 3), ids(2, 0), no_repeat_ngram_size=1), row(-INF, 2, -INF)
    )


def test_a_history_shorter_than_the_ngram_forbids_nothing():
    for history in (ids(), ids(1), ids(1, 1)):
        assert np.isfinite(processed(row(1, 2), history, no_repeat_ngram_size=3)).all()


def test_end_tokens_are_forbidden_until_the_answer_is_long_enough():
    options = {"min_new_tokens": 2, "eos_ids": (0, 2)}

    np.testing.assert_array_equal(processed(row(5, 1, 4), n_new=1, **options), row(-INF, 1, -INF))
    np.testing.assert_array_equal(processed(row(5, 1, 4), n_new=2, **options), row(5, 1, 4))


def test_penalties_hold_for_greedy_too():
    sampler = Sampler(Generation(min_new_tokens=1), eos_ids=[0])

    assert [sampler.choose(row(5, 1), ids(1), n_new) for n_new in (0, 1)] == [1, 0]


def test_temperature_divides_the_logits():
    np.testing.assert_array_equal(processed(row(1, -2), temperature=0.5), row(2, -4))


def test_top_k_keeps_the_best_and_what_ties_with_the_last():
    assert kept(row(1, 4, 3, 2), top_k=2) == [1, 2]
    assert kept(row(1, 3, 4, 3, 2), top_k=2) == [1, 2, 3]
    assert kept(row(1, 1, 1), top_k=1) == [0, 1, 2]


def test_a_top_k_beyond_the_vocabulary_keeps_everything():
    assert kept(row(1, 4, 3), top_k=50) == [0, 1, 2]


def test_top_p_keeps_the_fewest_that_hold_the_mass():
    shares = probabilities(0.1, 0.5, 0.15, 0.25)

    assert kept(shares, top_p=0.45) == [1]
    assert kept(shares, top_p=0.6) == [1, 3]
    assert kept(shares, top_p=0.8) == [1, 2, 3]
    assert kept(shares, top_p=0.95) == [0, 1, 2, 3]


def test_top_p_keeps_one_token_at_least():
    assert kept(probabilities(0.3, 0.3, 0.4), top_p=1e-9) == [2]


def test_top_p_among_equals_keeps_the_later_ids():
    assert kept(row(0, 0, 0, 0), top_p=0.4) == [2, 3]
    assert kept(row(0, 9, 0, 9), top_p=0.1) == [3]


def test_min_p_measures_against_the_best_token():
    shares = probabilities(0.5, 0.26, 0.2, 0.04)

    assert kept(shares, min_p=0.5) == [0, 1]
    assert kept(shares, min_p=0.3) == [0, 1, 2]
    assert kept(shares, min_p=0.01) == [0, 1, 2, 3]


def test_each_filter_sees_what_the_one_before_left():
    # Of all, the best two hold 0.7; of the best two alone, the first holds 0.57 of the mass.
    shares = probabilities(0.4, 0.3, 0.2, 0.1)

    assert kept(shares, top_p=0.55) == [0, 1]
    assert kept(shares, top_k=2, top_p=0.55) == [0]


def test_filters_are_off_when_greedy():
    scores = processed(row(1, 4, 3), top_k=1, top_p=0.1, min_p=0.9)

    np.testing.assert_array_equal(scores, row(1, 4, 3))


def test_the_callers_logits_are_only_read():
    logits = row(3, 1, 2)
    logits.setflags(write=False)
    options = Generation(temperature=0.5, top_k=2, repetition_penalty=1.5, no_repeat_ngram_size=1)

    Sampler(options, seed=0).choose(logits, ids(0), 0)

    np.testing.assert_array_equal(logits, row(3, 1, 2))


def test_the_processed_row_is_not_overwritten_by_the_next_call():
    sampler = Sampler(Generation(temperature=2.0))
    first = sampler.process(row(2, 4), ids(), 0)

    sampler.process(row(8, 8), ids(), 0)

    np.testing.assert_array_equal(first, row(1, 2))


def choices(options, n=20, **sampler):
    chooser = Sampler(options, **sampler)
    return [chooser.choose(row(*range(30)) / 10, ids(), step) for step in range(n)]


def test_a_seed_repeats_the_draws():
    options = Generation(temperature=1.0, seed=5)

    assert choices(options) == choices(options)
    assert choices(options) == choices(Generation(temperature=1.0), seed=5)
    assert choices(options) != choices(options, seed=6)


def test_seed_zero_is_a_seed():
    assert choices(Generation(temperature=1.0), seed=0) == choices(
        Generation(temperature=1.0, seed=9), seed=0
    )


def test_rows_with_their_own_samplers_do_not_disturb_each_other():
    options = Generation(temperature=1.0, seed=5)
    one, other = Sampler(options), Sampler(options, seed=8)
    logits = row(*range(30)) / 10

    together = [(one.choose(logits, ids(), 0), other.choose(logits, ids(), 0)) for _ in range(20)]

    assert [first for first, _ in together] == choices(options)


def test_a_ruled_out_token_is_never_drawn():
    class Edges:
        def __init__(self):
            self.numbers = [0.0, np.nextafter(1.0, 0.0)]

        def random(self):
            return self.numbers.pop(0)

    scores = row(-INF, 0, -INF, 0, -INF)
    rng = Edges()

    assert [draw(scores, rng), draw(scores, rng)] == [1, 3]


def test_a_ruled_out_token_is_never_drawn_from_a_large_vocabulary():
    class Edge:
        def random(self):
            return np.nextafter(1.0, 0.0)

    scores = np.full(5000, -INF, dtype=np.float32)
    scores[1500:3000] = 0.1

    assert draw(scores, Edge()) == 2999


@pytest.mark.parametrize("vocabulary", [8, 3000])
def test_draws_follow_the_probabilities(vocabulary):
    """Pearson's chi-square over 8 cells; 24.3 is its 99.9th percentile for 7 degrees of freedom."""
    n_draws, shares = 20_000, np.array([0.3, 0.02, 0.18, 0.1, 0.05, 0.2, 0.05, 0.1])
    logits = np.full(vocabulary, -INF, dtype=np.float32)
    cells = np.linspace(0, vocabulary - 1, 8).astype(int)
    logits[cells] = np.log(shares)
    sampler = Sampler(Generation(temperature=1.0), seed=11)

    drawn = [sampler.choose(logits, ids(), 0) for _ in range(n_draws)]
    observed = np.array([drawn.count(cell) for cell in cells])

    assert observed.sum() == n_draws
    assert ((observed - n_draws * shares) ** 2 / (n_draws * shares)).sum() < 24.3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [row(1, float("nan"), 2), row(-INF, -INF)])
def test_logits_that_are_no_numbers_blame_the_model(temperature, broken):
    for more in ({}, {"top_k": 1, "top_p": 0.9, "repetition_penalty": 1.2}):
        sampler = Sampler(Generation(temperature=temperature, **more), seed=0)

        with pytest.raises(ModelError, match="logits have no finite maximum"):
            sampler.choose(broken, ids(), 0)


def test_an_infinite_logit_wins_greedily_and_cannot_be_drawn():
    assert Sampler(Generation()).choose(row(1, INF), ids(), 0) == 1
    with pytest.raises(ModelError, match="inf"):
        Sampler(Generation(temperature=1.0)).choose(row(1, INF), ids(), 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_options_that_forbid_every_token_are_blamed_by_name(temperature):
    sampler = Sampler(Generation(temperature=temperature, no_repeat_ngram_size=1))

    with pytest.raises(TaskError, match=r"no_repeat_ngram_size=1.* leaves no token"):
        sampler.choose(row(1, 2), ids(0, 1), 2)


def test_extreme_logits_raise_no_warning():
    logits = row(3e38, -3e38, 0, -INF)
    options = Generation(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=2.0)

    assert Sampler(options, seed=0).choose(logits / 4, ids(0, 1), 0) == 0
