"""How a cluster's cores and a file's rows are shared out."""

import pytest

from lmkit.batching import Limits
from lmkit.cluster.answering import part_size
from lmkit.cluster.replica import Plan
from lmkit.cluster.serving import Fleet
from lmkit.cluster.starting import Groups
from lmkit.errors import LmkitError
from lmkit.serve.settings import Settings


@pytest.mark.parametrize(
    ("cores", "given", "wanted"),
    [
        ((2,), {}, Groups(1, 2)),
        ((16, 8, 2), {}, Groups(6, 4)),  # the smallest node has no room for four threads
        ((8, 8), {"threads": 1}, Groups(16, 1)),
        ((8, 8), {"threads": 8}, Groups(2, 8)),
        ((8, 8), {"workers": 4}, Groups(4, 4)),
        ((8, 8), {"workers": 16}, Groups(16, 1)),
        ((2, 2), {"workers": 1}, Groups(1, 2)),  # threads of one worker are on one node
        ((4, 4, 4), {"workers": 4}, Groups(4, 2)),  # with three, one would have no place
        ((4,), {"workers": 9}, Groups(9, 1)),
        ((8,), {"workers": 2, "threads": 3}, Groups(2, 3)),
    ],
)
def test_what_is_not_said_is_found(cores, given, wanted):
    assert Groups.of(cores, **given) == wanted


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, 4),
        ({"replicas": 2}, 4),
        ({"most_replicas": 8}, 1),
        ({"replicas": 2, "most_replicas": 4}, 2),  # with four, no more than two would have a place
        ({"replicas": 4, "most_replicas": 2}, 2),
    ],
)
def test_replicas_leave_room_for_the_most_that_there_may_be(given, threads):
    plan = Plan(
        bundles=[],
        settings=Settings(),
        limits=Limits(),
        precision=None,
        threads=0,
        verify=False,
        log_format="text",
    )

    assert Fleet(plan=plan, host="127.0.0.1", port=0, **given).groups((8,)).threads == threads


def test_more_threads_than_any_node_has_are_refused():
    with pytest.raises(LmkitError, match="the largest node of the cluster has 4 cores"):
        Groups.of((4, 2), threads=5)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000, 10**6])
@pytest.mark.parametrize("workers", [1, 3, 64])
def test_parts_are_whole_batches_and_small(rows, workers):
    size = part_size(rows, workers, batch_size=8)

    assert size % 8 == 0
    assert 8 <= size <= 64
