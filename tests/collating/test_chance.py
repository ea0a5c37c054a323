import numpy as np

from lmkit.collating.chance import GOLDEN, row_keys, uniforms


def splitmix64(state, count):
    """Draw numbers as the paper's generator does, one after the other in Python's own integers."""
    most, found = 2**64, []
    for _ in range(count):
        state = (state + int(GOLDEN)) % most
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % most
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % most
        found.append(((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53)
    return found


class TestNumbers:
    def test_are_those_of_splitmix64_with_a_state_for_each_key(self):
        keys = np.array([0, 1234567, 2**64 - 1], dtype=np.uint64)
        wanted = [*splitmix64(0, 3), *splitmix64(1234567, 2), *splitmix64(2**64 - 1, 4)]

        assert uniforms(keys, np.array([3, 2, 4])).tolist() == wanted

    def test_of_a_row_do_not_depend_on_the_rows_beside_it(self):
        keys = row_keys(7, 2, [5, 6, 7])
        together = uniforms(keys, np.array([4, 3, 5]))

        assert together[4:7].tolist() == uniforms(row_keys(7, 2, [6]), np.array([3])).tolist()

    def test_are_uniform_over_many_short_rows(self):
        drawn = uniforms(row_keys(0, 0, range(50_000)), np.full(50_000, 4)).reshape(-1, 4)

        assert drawn.min() >= 0
        assert drawn.max() < 1
        assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.006
        assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.02
        assert np.abs(np.histogram(drawn, 10)[0] / drawn.size - 0.1).max() < 0.003

    def test_are_none_where_none_are_wanted(self):
        assert len(uniforms(row_keys(0, 0, []), np.array([], dtype=np.int64))) == 0


class TestKeys:
    def test_differ_by_seed_epoch_and_index(self):
        keys = [row_keys(seed, epoch, range(100)) for seed in (0, 1, 2) for epoch in (0, 1, 2)]

        assert len(np.unique(np.concatenate(keys))) == 900
