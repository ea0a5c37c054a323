"""Memory that is lent, handed back, and lent again."""

import gc
import threading

import numpy as np
import pytest

from lmkit.runtime.buffers import Pool


class Owner:
    pass


@pytest.fixture
def owner():
    return Owner()


def test_what_is_handed_back_is_lent_again(owner):
    pool = Pool()
    first = pool.take(1000, owner)
    where = first.floats.ctypes.data
    first.release()

    second = pool.take(600, owner)

    assert second.floats.shape == (600,)
    assert second.floats.ctypes.data == where
    assert pool.idle_bytes == 0


def test_two_owners_never_share_memory(owner):
    pool = Pool()

    lent = [pool.take(100, owner) for _ in range(3)]

    for lease, value in zip(lent, (1, 2, 3), strict=True):
        lease.floats[:] = value
    assert [set(lease.floats) for lease in lent] == [{1}, {2}, {3}]


def test_a_block_begins_with_a_cache_line(owner):
    assert all(Pool().take(size, owner).floats.ctypes.data % 64 == 0 for size in (1, 100, 99_999))


def test_it_is_handed_back_once_however_often_that_is_said(owner):
    pool = Pool()
    lease = pool.take(100, owner)

    lease.release()
    lease.release()

    assert (pool.idle_bytes, pool.used_bytes) == (400, 0)
    assert not np.shares_memory(pool.take(100, owner).floats, pool.take(100, owner).floats)


def test_an_owner_that_is_gone_hands_it_back():
    pool = Pool()
    owner = Owner()
    owner.itself = owner  # only the garbage collector finds it
    pool.take(100, owner)
    assert pool.used_bytes == 400

    del owner
    gc.collect()

    assert (pool.idle_bytes, pool.used_bytes) == (400, 0)


def test_no_more_is_kept_than_the_bound(owner):
    pool = Pool(most_bytes=1000)

    for lease in [pool.take(100, owner) for _ in range(5)]:
        lease.release()
    assert pool.idle_bytes == 800

    pool.take(10_000, owner).release()
    assert pool.idle_bytes == 0


def test_growing_requests_leave_one_block_behind(owner):
    pool = Pool()

    for size in (100, 200, 150, 5000, 300):
        pool.take(size, owner).release()

    assert pool.idle_bytes == 4 * 5000


def test_the_smallest_that_is_enough_is_lent(owner):
    pool = Pool()
    for lease in [pool.take(size, owner) for size in (5000, 100, 700)]:
        lease.release()

    pool.take(200, owner)

    assert pool.idle_bytes == 4 * 5100


def test_threads_are_lent_different_memory(owner):
    pool = Pool()
    wrong = []

    def work(number):
        for size in np.random.default_rng(number).integers(1, 3000, 300).tolist():
            lease = pool.take(size, owner)
            lease.floats[:] = number
            if (lease.floats != number).any():
                wrong.append(number)
            lease.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert pool.used_bytes == 0
    assert 0 < pool.idle_bytes <= 8 * 4 * 3000
