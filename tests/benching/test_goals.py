import pytest
from benchmarks.goals import FIRST, INT4, RATE, START, Goal, against_goal


def side(title, first, rate):
    figures = {"prompt_tokens": 512, FIRST: {"median": first}, RATE: {"median": rate}}
    return {"title": title, START: 0.8, "figures": [figures]}


REPORTS = {"int4": {"results": [side(INT4, 0.1, 200.0), side("peer", 0.2, 100.0)]}}


@pytest.mark.parametrize(
    ("figure", "reach", "ratio", "met"),
    [(RATE, 1.5, "2.00x", "yes"), (RATE, 2.5, "2.00x", "no"), (FIRST, 2.0, "2.00x", "yes")],
)
def test_a_goal_is_a_multiple_of_the_peers_figure_whichever_end_is_better(
    figure, reach, ratio, met
):
    row = against_goal(Goal("what", "int4", INT4, "peer", figure, reach), REPORTS)

    assert row[3] == ratio
    assert row[-1] == met


def test_a_time_that_stands_for_itself_must_be_less():
    assert against_goal(Goal("start", "int4", INT4, None, START, 1.0), REPORTS)[-1] == "yes"
    assert against_goal(Goal("start", "int4", INT4, None, START, 0.5), REPORTS)[-1] == "no"


def test_what_was_not_measured_is_not_reached():
    goal = Goal("what", "int4", INT4, "absent", RATE, 1.0)

    assert against_goal(goal, REPORTS)[-1] == "not measured"
    assert against_goal(Goal("what", "fp32", INT4, "peer", RATE, 1.0), REPORTS) is None
