"""Texts that begin as others did: read once, answered the same."""

import threading

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import prompt_ids
from lmkit.errors import ModelError
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.prefixes import LEAST, Prefixes
from lmkit.runtime.rows import Row
from lmkit.saving.manifest import read_manifest

from .toybundle import HEAD_SIZE, KV_HEADS, RECORDS, TASK, write_bundle

TOLERANCE = 1e-4  # as in test_session
A_TOKEN = 8 + 2 * KV_HEADS * HEAD_SIZE * 4  # its id, key and value, in bytes
OPENING = "The same long opening. "


def arrays(n_tokens, fill=0.0):
    """Return what a text of so many tokens leaves in a model of one layer."""
    shape = (KV_HEADS, n_tokens, HEAD_SIZE)
    return {name: np.full(shape, fill, np.float32) for name in ("0.key", "0.value")}


def ids(*given):
    return np.array(given, dtype=np.int64)


@pytest.fixture
def warm(bundle):
    """Return the toy model, which keeps what it reads."""
    return lk.load(bundle, threads=1, verify=False)


@pytest.fixture
def cold(bundle):
    """Return the toy model, which keeps nothing."""
    return lk.load(bundle, threads=1, verify=False, prefix_cache_bytes=0)


@pytest.fixture
def read(monkeypatch):
    """Return what the model reads in single rows, as numbers of tokens, in order."""
    found = []
    extend = CausalState.extend
    monkeypatch.setattr(
        CausalState,
        "extend",
        lambda state, row, new, **given: found.append(len(new)) or extend(state, row, new, **given),
    )
    return found


class TestWhatIsKept:
    def test_the_longest_common_beginning_is_found(self):
        prefixes = Prefixes()
        prefixes.keep(np.arange(20), 20, arrays(20, 1.0))
        prefixes.keep(ids(*range(12), *[99] * 20), 32, arrays(32, 2.0))

        kept, count = prefixes.find(ids(*range(15), 7, 7, 7), written=True)
        other, fewer = prefixes.find(ids(*range(12), 99, 7, 7, 7), written=True)

        assert (count, kept.parts[0, 0, 0, 0]) == (15, 1)
        assert (fewer, other.parts[0, 0, 0, 0]) == (13, 2)

    def test_two_tokens_are_always_left_to_read(self):
        prefixes = Prefixes()
        prefixes.keep(np.arange(20), 20, arrays(20))

        assert prefixes.find(np.arange(20), written=True)[1] == 18
        assert prefixes.find(np.arange(LEAST + 1), written=True) is None

    def test_what_was_written_counts_only_if_asked_for(self):
        prefixes = Prefixes()
        prefixes.keep(np.arange(20), 12, arrays(20))

        assert prefixes.find(np.arange(30), written=True)[1] == 20
        assert prefixes.find(np.arange(30), written=False)[1] == 12

    def test_a_text_replaces_its_own_beginning(self):
        prefixes = Prefixes()
        for length in (10, 20, 15, 30):
            prefixes.keep(np.arange(length), length, arrays(length))

        assert prefixes.n_bytes == 30 * A_TOKEN

    def test_the_least_recently_used_go_when_there_is_no_room(self):
        prefixes = Prefixes(most_bytes=25 * A_TOKEN)
        prefixes.keep(np.arange(10), 10, arrays(10))
        prefixes.keep(np.arange(100, 110), 10, arrays(10))
        prefixes.find(np.arange(12), written=True)

        prefixes.keep(np.arange(200, 210), 10, arrays(10))

        assert prefixes.n_bytes == 20 * A_TOKEN
        assert prefixes.find(np.arange(12), written=True) is not None
        assert prefixes.find(np.arange(100, 112), written=True) is None

    def test_of_a_text_that_is_too_large_the_beginning_is_kept(self):
        prefixes = Prefixes(most_bytes=16 * A_TOKEN)
        prefixes.keep(np.arange(100), 100, arrays(100))

        assert prefixes.n_bytes == 16 * A_TOKEN
        assert prefixes.find(np.arange(100), written=True)[1] == 16

    @pytest.mark.parametrize("most_bytes", [0, (LEAST - 1) * A_TOKEN])
    def test_nothing_is_kept_without_room(self, most_bytes):
        prefixes = Prefixes(most_bytes)
        prefixes.keep(np.arange(100), 100, arrays(100))

        assert prefixes.n_bytes == 0
        assert prefixes.find(np.arange(100), written=True) is None


class TestAnswers:
    @pytest.mark.parametrize("behind", [(), (70, 3, 41)])
    @pytest.mark.parametrize("room", [1 << 20, 20 * A_TOKEN])
    def test_are_those_of_a_model_that_keeps_nothing(self, tmp_path, behind, room):
        folder = write_bundle(tmp_path / "bundle", behind=behind)
        warm = lk.load(folder, threads=1, verify=False, prefix_cache_bytes=room)
        cold = lk.load(folder, threads=1, verify=False, prefix_cache_bytes=0)
        rng = np.random.default_rng(0)
        for turn in range(40):
            record = {"prompt": OPENING[: rng.integers(24)] + "ab" * int(rng.integers(4))}
            given = {"temperature": float(rng.choice([0, 0, 0.8])), "seed": turn}

            assert warm(record, **given) == cold(record, **given)
            assert 0 < warm._session.prefixes.n_bytes <= room

    def test_in_a_batch_too(self, warm, cold):
        for start in range(3):
            records = [{"prompt": OPENING + str(place) * place} for place in range(start, 9)]

            assert warm.batch(records) == cold.batch(records)
            assert warm.batch(RECORDS) == cold.batch(RECORDS)

    def test_of_several_threads_at_once(self, bundle, cold):
        warm = lk.load(bundle, threads=1, verify=False, prefix_cache_bytes=60 * A_TOKEN)
        records = [{"prompt": OPENING[:n] + "x" * (n % 3)} for n in range(2, 24, 3)]
        wanted = [cold(record) for record in records]
        found = {}

        def work(place):
            for turn in range(8):
                found[place, turn] = warm(records[(place + turn) % len(records)])

        threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 48
        for (place, turn), answer in found.items():
            assert answer == wanted[(place + turn) % len(records)]
        kept = warm._session.prefixes
        assert kept.n_bytes == sum(each.n_bytes for each in kept._kept.values()) <= 60 * A_TOKEN

    def test_are_unharmed_by_a_request_that_failed(self, warm, cold, monkeypatch):
        record = {"prompt": OPENING}
        with monkeypatch.context() as patch:
            patch.setattr(
                "lmkit.runtime.sampling.Sampler.choose",
                lambda *given: (_ for _ in ()).throw(ModelError("no")),
            )
            with pytest.raises(ModelError):
                warm(record)

        assert warm._session.prefixes.n_bytes == 0
        assert warm(record) == cold(record)


class TestWhatIsRead:
    def test_an_opening_is_read_once(self, warm, read):
        first, second = ({"prompt": OPENING + end} for end in ("one", "two"))
        shared = len(prompt_ids(TASK, {"prompt": OPENING}, warm.tokenizer))
        warm(first)
        del read[:]

        warm(second)

        assert read[0] < len(prompt_ids(TASK, second, warm.tokenizer)) - shared + 8

    def test_a_chats_next_turn_continues_the_last_one(self, tmp_path, read):
        folder = write_bundle(tmp_path / "talk")
        ask = lk.load(folder, threads=1, verify=False)
        session = ask._session
        prompt = ask.prompt({"prompt": OPENING})
        row = ask.row(prompt, TASK.generation, session=session, stop=(), make=Row)
        for _ in ask._write([row], session, 1):
            pass
        follow = np.concatenate([prompt, row.token_ids, ids(40, 41, 42)])
        del read[:]

        state, logits = session.begin([follow], [4])

        # The last token was chosen, and not read by anybody: it leads on.
        assert read[-1] == 4
        whole, expected = CausalSession(
            folder / "model.onnx", read_manifest(folder).graph, threads=1, prefix_cache_bytes=0
        ).begin([follow], [4])
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
        np.testing.assert_allclose(state.step([9]), whole.step([9]), atol=TOLERANCE)

    def test_what_was_written_is_read_again_where_the_model_rounds(self, warm, read):
        session = warm._session
        session.pace.rounding = 0.5
        prompt = warm.prompt({"prompt": OPENING})
        answer = warm({"prompt": OPENING}, max_new_tokens=12)
        follow = np.concatenate([prompt, answer.token_ids, ids(40, 41, 42)])
        del read[:]

        session.begin([follow], [4])

        assert read == [len(follow) - len(prompt)]

    def test_a_batch_reads_a_long_shared_opening_once(self, warm, read):
        warm._session.pace._fit = (0.0, 1.0)  # where every token costs as much as a step
        records = [{"prompt": OPENING + end} for end in ("one", "two", "three")]
        lengths = [len(warm.prompt(record)) for record in records]

        warm.batch(records, max_new_tokens=1)

        assert read[0] == max(lengths)
        assert sum(read) < 0.7 * sum(lengths)
