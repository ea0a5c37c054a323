"""What several processes do together: here as one of them, and what is dealt out to them."""

import socket

import accelerate
import numpy as np
import pytest
import torch

from lmkit.encoding import IGNORE, Encoded
from lmkit.errors import LmkitError
from lmkit.train import ranks
from lmkit.train.feeding import BLANK, Filled, MeasuredRows, blank


@pytest.fixture
def launched(monkeypatch):
    """Return a function that makes this process one of two, as torchrun would."""

    def launch(rank, **more):
        several = {"WORLD_SIZE": "2", "RANK": str(rank), **more}
        for name, text in several.items():
            monkeypatch.setenv(name, text)

    return launch


class TestAlone:
    def test_it_is_the_first_of_one(self):
        assert (ranks.world_size(), ranks.rank(), ranks.is_first()) == (1, 0, True)

    def test_a_number_of_processes_without_a_rank_is_somebody_elses(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "8")

        assert ranks.world_size() == 1

    def test_all_is_done_as_if_there_were_no_others(self):
        assert ranks.join({"seed": 3}) == {"seed": 3}
        assert ranks.share("one") == ranks.first(lambda: "one") == "one"
        assert ranks.first_before_others(lambda: 5) == 5
        assert ranks.total([1.5, 2]) == [1.5, 2]
        assert ranks.may_speak()
        assert not torch.distributed.is_initialized()

    def test_what_fails_fails_as_it_is(self):
        with pytest.raises(ZeroDivisionError):
            ranks.first(lambda: 1 // 0)


class TestWhereItComputes:
    @pytest.fixture
    def met(self, launched, monkeypatch):
        """Return how processes meet whose torch is built for a device, there or not."""
        met = {}
        launched(0)
        monkeypatch.setattr(accelerate, "PartialState", lambda **how: met.update(how))

        def meet(device, *, is_there):
            torch_has = torch.accelerator
            monkeypatch.setattr(torch_has, "current_accelerator", lambda: torch.device(device))
            monkeypatch.setattr(torch_has, "is_available", lambda: is_there)
            return ranks.join({"seed": 3})["use_cpu"], met["cpu"]

        return meet

    @pytest.mark.parametrize("device", ["cuda", "mps"])
    def test_it_is_the_cpu_without_a_device_that_can_be_shared(self, met, device):
        assert met(device, is_there=device == "mps") == (True, True)

    def test_it_is_a_device_that_is_there(self, met):
        assert met("cuda", is_there=True) == (False, False)


class TestWhoSpeaks:
    @pytest.fixture
    def store(self):
        """A store as torchrun's, and the environment in which a process finds it."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
        kept = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        yield {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        del kept

    def test_the_first_to_end_does_and_no_other(self, launched, store):
        launched(1, **store)

        assert ranks.may_speak()
        launched(0, **store)
        assert not ranks.may_speak()

    def test_another_attempt_is_told_of_again(self, launched, store):
        launched(0, **store)
        assert ranks.may_speak()
        launched(0, **store, TORCHELASTIC_RESTART_COUNT="1")

        assert ranks.may_speak()

    def test_every_one_does_where_nothing_outlives_them(self, launched):
        launched(1)

        assert ranks.may_speak()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (LmkitError("the disk is full"), False),
    ],
)
def test_a_process_that_has_gone_is_told_from_a_bug(error, lost, launched):
    launched(0)

    assert ranks.lost(error) is lost


class TestRowsDealtOut:
    @pytest.mark.parametrize(("rows", "size", "whole"), [(13, 8, 16), (16, 8, 16), (1, 4, 4)])
    def test_every_row_is_there_once_and_the_rest_is_blank(self, rows, size, whole):
        order = list(Filled(range(rows), size))

        assert len(order) == len(Filled(range(rows), size)) == whole
        assert order == [*range(rows), *[BLANK] * (whole - rows)]

    def test_of_a_blank_row_nothing_is_learned(self):
        row = Encoded(np.array([5, 6, 7]), np.array([IGNORE, 6, 7]))

        assert blank(row).n_learned == 0
        assert blank(row).input_ids.tolist() == [5, 6, 7]
        assert row.n_learned == 2
        assert MeasuredRows([row])[BLANK].n_learned == 0
