import json

import pytest

from lmkit.benching.report import Report, Spread, Work, figures_of

from .reports import report

WORK = Work(prompt_tokens=4, new_tokens=4, rows=2)
# Each step's seconds from the request.
RUNS = [[1.0, 1.1, 1.2, 1.3], [2.0, 2.2, 2.4, 2.6], [0.5, 0.9, 1.3, 1.7]]


def test_the_first_token_and_the_others_are_apart():
    figures = figures_of(WORK, RUNS)

    assert figures.first_token_s == Spread(1.0, 0.5, 2.0)
    assert figures.token_s.median == pytest.approx(0.2)
    assert figures.tokens_per_second.median == pytest.approx(2 / 0.2)
    assert figures.whole_s == Spread(1.7, 1.3, 2.6)


def test_percentiles_are_over_every_gap_of_every_round():
    gaps = [[0.0, *(0.01 * (at + 1) for at in range(99)), 5.0]]
    figures = figures_of(Work(prompt_tokens=1, new_tokens=101), gaps)

    assert figures.token_p50_s == pytest.approx(0.01)
    assert figures.token_p99_s == pytest.approx(0.01)
    assert figures_of(WORK, RUNS).token_p99_s == pytest.approx(0.4)


def test_one_step_has_no_time_between_tokens():
    figures = figures_of(Work(prompt_tokens=4, new_tokens=1), [[1.0], [2.0]])

    assert figures.token_s is figures.tokens_per_second is figures.token_p50_s is None


def test_a_search_counts_tokens_over_the_whole_time():
    figures = figures_of(Work(prompt_tokens=4, new_tokens=10, beams=4), [[2.0], [4.0], [5.0]])

    assert figures.tokens_per_second == Spread(2.5, 2.0, 5.0)
    assert figures.first_token_s is None


def test_a_report_is_read_from_its_document():
    before = report()

    data = json.loads(json.dumps(before.document()))
    data["results"][0]["another's"] = 1.0

    assert Report.of_document(data) == before
