"""The reference is the kernel's own account of a mapping, `/proc/self/smaps`."""

import mmap
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lmkit.runtime import hugepages
from lmkit.runtime.hugepages import MOVER, SIZE, in_huge_pages, without


def in_huge_pages_at(address):
    """Return the bytes of a mapping that are in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            start, end = (int(part, 16) for part in name.split("-"))
            inside = start <= address < end
        elif inside and name == "AnonHugePages:":
            return 1024 * int(rest[0])
    raise AssertionError("there is no such mapping")


def allocated(n_bytes):
    """Return memory that nobody asked huge pages for, and where its middle is."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = np.frombuffer(memory, dtype=np.uint8)
    numbers[:] = np.arange(n_bytes, dtype=np.uint32) % 251
    return numbers, numbers.ctypes.data + n_bytes // 2


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(hugepages, "LATER_S", 0.0)


def wait_until_moved():
    for thread in threading.enumerate():
        if thread.name == MOVER:
            thread.join()


@pytest.mark.skipif(
    sys.platform != "linux" or not hugepages._is_allowed(), reason="no huge pages here"
)
def test_what_is_allocated_meanwhile_is_moved_and_keeps_its_numbers():
    with in_huge_pages():
        numbers, place = allocated(8 * SIZE)
    wait_until_moved()

    np.testing.assert_array_equal(numbers, np.arange(8 * SIZE, dtype=np.uint32) % 251)
    if not in_huge_pages_at(place):
        pytest.skip("the system has none to give at the moment, or gives them by and by")
    assert in_huge_pages_at(place) >= 2 * SIZE


def test_nothing_is_moved_where_the_system_is_told_to_give_none(tmp_path, monkeypatch):
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    monkeypatch.setattr(hugepages, "_SETTING", setting)
    monkeypatch.setattr(hugepages.ctypes, "CDLL", None)  # which would be called

    with in_huge_pages():
        pass


def test_a_system_without_such_a_setting_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(hugepages, "_SETTING", tmp_path / "none")
    monkeypatch.setattr(hugepages.ctypes, "CDLL", None)

    with in_huge_pages():
        pass


def test_a_python_that_cannot_ask_goes_on_without(monkeypatch):
    def refuses(name):
        raise OSError

    monkeypatch.setattr(hugepages.ctypes, "CDLL", refuses)

    with in_huge_pages():
        pass
    wait_until_moved()


def test_what_was_there_before_is_not_touched():
    assert without([(10, 40)], []) == [(10, 40)]
    assert without([(10, 40)], [(0, 50)]) == []
    assert without([(10, 40)], [(0, 12), (20, 22), (39, 60)]) == [(12, 20), (22, 39)]
    assert without([(10, 40), (50, 60)], [(40, 50)]) == [(10, 40), (50, 60)]
