import os
import time

import pytest

from lmkit.benching.sides import SideFailed, peer_sides
from lmkit.benching.worker import Worker
from lmkit.family import Family

LOAD = {"model": "model", "precision": None, "family": "causal", "threads": 1}


@pytest.fixture
def worker(bundle, peer):
    """Return a function that starts a peer's worker and has it load its model."""
    started = []

    def worker(name):
        (side,), _ = peer_sides([peer(name)], bundle=bundle, family=Family.CAUSAL)
        one = Worker(side, threads=1, timeout_s=60)
        started.append(one)
        one.ask("load", **LOAD)
        return one

    yield worker
    for one in started:
        one.close()


def test_what_a_library_prints_is_not_a_reply(worker):
    reply = worker("fake").ask("run", prompts=[[1]], new_tokens=2)

    assert reply["ids"] == [[1, 1]]


def test_a_side_that_waits_is_stopped_by_the_system(worker):
    one = worker("fake")
    until = time.monotonic() + 20
    while (state := _state(one.pid)) != "T" and time.monotonic() < until:
        time.sleep(0.01)

    assert state == "T"
    assert one.ask("run", prompts=[[1]], new_tokens=1)["times"] == [0.5]


def test_a_side_that_does_not_answer_in_time_is_ended(worker):
    one = worker("hangs")
    one.timeout_s = 0.5

    with pytest.raises(SideFailed, match=r"did not answer within 0\.5 seconds"):
        one.ask("run", prompts=[[1]], new_tokens=2)
    assert not os.path.exists(f"/proc/{one.pid}")


def test_peak_memory_is_the_sides_own(worker):
    one = worker("fake")
    held = bytearray(200_000_000)  # this process's own, which a child's figure must not begin with
    one.ask("run", prompts=[[1]], new_tokens=1)

    assert len(held) > one.peak_bytes > 1_000_000


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0]
