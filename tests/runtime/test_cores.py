"""Cores that may be used, from files as Linux writes them."""

import os

import pytest

from lmkit.runtime.cores import available_cores, quotas


@pytest.fixture
def system(tmp_path):
    """Return a function that writes files, path by path, and gives their root."""

    def write(files):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


def test_there_is_a_core():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_container_sees_its_quota_at_the_root(system):
    root = system({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"})

    assert list(quotas(root)) == [1.5]


def test_groups_around_it_limit_it_too(system):
    root = system(
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
        }
    )

    assert list(quotas(root)) == [3.0]


def test_the_first_version_has_two_files(system):
    root = system(
        {
            "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/ab\n0::/\n",
            "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )

    assert list(quotas(root)) == [4.0]


@pytest.mark.parametrize("text", ["", "max", "max 100000", "0 100000", "100000 0", "a b", "1 2 3"])
def test_no_quota_is_no_limit(system, text):
    root = system({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text})

    assert list(quotas(root)) == []


def test_a_system_without_control_groups_has_no_limit(tmp_path):
    assert list(quotas(tmp_path)) == []


@pytest.mark.parametrize(("limit", "cores"), [(0.1, 1), (1.4, 1), (1.6, 2), (2.0, 2), (64.0, 8)])
def test_the_least_of_all_limits_counts(monkeypatch, limit, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lmkit.runtime.cores.quotas", lambda: iter([limit, 90.0]))

    assert available_cores() == cores


@pytest.mark.parametrize(("allowed", "cores"), [("3", 3), ("20", 8), ("0", 8), ("x", 8)])
def test_the_environment_may_allow_fewer(monkeypatch, allowed, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    monkeypatch.setattr("lmkit.runtime.cores.quotas", lambda: iter(()))

    assert available_cores() == cores
