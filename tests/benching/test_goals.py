import pytest
from benchmarks.goals import FIRST, INT4, RATE, SIZE, START, Goal, against_goal


def side(title, first, rate):
    figures = {"prompt_tokens": 512, FIRST: {"median": first}, RATE: {"median": rate}}
    quality = 10.0 if title == INT4 else 12.35
    return {
        "title": title,
        "perplexity": quality,
        START: {"median": 0.8},
        SIZE: 0.2,
        "figures": [figures],
    }


REPORTS = {"int4": {"results": [side(INT4, 0.1, 200.0), side("peer", 0.2, 100.0)]}}


@pytest.mark.parametrize(
    ("figure", "reach", "beyond", "met"),
    [
        (RATE, 1.5, None, "yes"),
        (RATE, 1.5, 2.5, "yes"),
        (RATE, 1.5, 1.9, "beyond"),
        (RATE, 2.5, None, "no"),
        (FIRST, 1.5, None, "yes"),
    ],
)
def test_a_goal_is_a_multiple_of_the_peers_figure_whichever_end_is_better(
    figure, reach, beyond, met
):
    row = against_goal(Goal("what", "int4", INT4, "peer", figure, reach, beyond), REPORTS)

    assert row[3] == "2.00x"
    assert row[-1] == "10.00 / 12.35"
    assert row[-2] == met


@pytest.mark.parametrize("figure", [START, SIZE])
def test_a_time_or_size_that_stands_for_itself_must_be_less(figure):
    assert against_goal(Goal("what", "int4", INT4, None, figure, 1.0), REPORTS)[-2] == "yes"
    assert against_goal(Goal("what", "int4", INT4, None, figure, 1.0, 0.9), REPORTS)[-2] == "beyond"
    assert against_goal(Goal("what", "int4", INT4, None, figure, 0.1), REPORTS)[-2] == "no"


def test_what_was_not_measured_is_not_reached():
    goal = Goal("what", "int4", INT4, "absent", RATE, 1.0)

    assert against_goal(goal, REPORTS)[-2] == "not measured"
    assert against_goal(Goal("what", "fp32", INT4, "peer", RATE, 1.0), REPORTS) is None
