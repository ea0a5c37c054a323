"""The loop over rows: who leaves, who comes, and that buffers go back however it ends."""

import gc
import threading

import numpy as np
import pytest

import lmkit as lk
from lmkit.errors import ModelError, TaskError
from lmkit.runtime.rows import alike, staying

from .toybundle import RECORD, RECORDS, write_bundle

SAMPLED = {"temperature": 0.9, "top_p": 0.95, "seed": 3}


@pytest.fixture
def pool(ask):
    return ask._session.pool


class TestRowsThatStay:
    def test_are_all_of_them_while_none_is_finished(self):
        assert staying([True] * 3) == [0, 1, 2]

    def test_are_none_in_the_end(self):
        assert staying([False] * 3) == []

    @pytest.mark.parametrize("seed", range(20))
    def test_fill_the_places_left_free_and_move_no_more_than_that(self, seed):
        goes_on = np.random.default_rng(seed).random(9) < 0.5

        order = staying(goes_on.tolist())

        assert sorted(order) == np.flatnonzero(goes_on).tolist()
        moved = [place for place, row in enumerate(order) if place != row]
        assert len(moved) == np.count_nonzero(~goes_on[: len(order)])


class TestRowsOfUnlikeSizes:
    SIZES = (100, 7, 60, 99, 40, 8)

    def test_are_written_together_where_all_places_can_be_held(self):
        assert list(alike(self.SIZES, 4)) == [[0, 3, 2, 4, 5, 1]]

    def test_are_written_with_their_like_where_memory_is_short(self, monkeypatch):
        monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 300)

        assert list(alike(self.SIZES, 4)) == [[0, 3, 2], [4, 5, 1]]
        assert list(alike(self.SIZES, 3)) == [[0, 3, 2, 4, 5, 1]]

    def test_are_none(self):
        assert list(alike([], 4)) == []


class TestRowsThatEndAtDifferentTimes:
    """Each has its own limit here: the forced end of its context, or its stop string."""

    RECORDS = tuple({"prompt": "x" * n} for n in (1, 50, 3, 47, 2, 51, 9, 30, 44, 5, 52))

    @pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
    def test_are_answered_as_each_alone(self, ask, size, options):
        options = {"max_new_tokens": 60, **options}
        alone = [ask(record, **options) for record in self.RECORDS]

        assert ask.batch(self.RECORDS, batch_size=size, **options) == alone
        assert len({len(answer.token_ids) for answer in alone}) > 3

    def test_behind_a_prefix_too(self, tmp_path):
        ask = lk.load(write_bundle(tmp_path / "b", behind=[70, 3, 41]), threads=1)
        alone = [ask(record, max_new_tokens=60) for record in self.RECORDS[:6]]

        assert ask.batch(self.RECORDS[:6], batch_size=2, max_new_tokens=60) == alone

    def test_leave_the_step_to_those_that_go_on(self, ask, monkeypatch):
        session = ask._session
        begin, sizes = session.begin, []

        def watched(*given):
            state, logits = begin(*given)
            step = state.step
            state.step = lambda tokens: sizes.append(len(tokens)) or step(tokens)
            return state, logits

        monkeypatch.setattr(session, "begin", watched)
        ask.batch(self.RECORDS, batch_size=100, max_new_tokens=60)

        assert sizes[0] == len(self.RECORDS)
        assert sizes[-1] < len(self.RECORDS) / 2
        assert sizes == sorted(sizes, reverse=True)

    def test_leave_their_places_to_those_that_wait(self, ask, monkeypatch):
        session = ask._session
        begin, begun = session.begin, []
        monkeypatch.setattr(session, "begin", lambda *given: begun.append(1) or begin(*given))

        ask.batch([RECORD] * 7, batch_size=2, max_new_tokens=3)

        assert len(begun) == 1


class TestBuffersGoBack:
    def test_when_an_answer_is_written(self, ask, pool):
        ask(RECORD)

        assert pool.used_bytes == 0

    def test_when_a_stream_is_read_to_its_end(self, ask, pool):
        for _ in ask.stream(RECORD):
            assert pool.used_bytes > 0

        assert pool.used_bytes == 0

    def test_when_a_stream_is_closed(self, ask, pool):
        stream = ask.stream(RECORD)
        next(stream)

        stream.close()

        assert pool.used_bytes == 0

    def test_when_a_stream_is_forgotten(self, ask, pool):
        stream = ask.stream(RECORD)
        next(stream)

        del stream
        gc.collect()

        assert pool.used_bytes == 0

    def test_when_the_one_who_reads_a_stream_fails(self, ask, pool):
        with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
            for _ in ask.stream(RECORD):
                1 / 0  # noqa: B018

        assert caught.value is not None
        gc.collect()
        assert pool.used_bytes == 0

    def test_when_a_stream_was_never_begun(self, ask, pool):
        stream = ask.stream(RECORD)
        assert pool.used_bytes == 0

        stream.close()

    @pytest.mark.parametrize("error", [ModelError("broken"), KeyboardInterrupt(), MemoryError()])
    @pytest.mark.parametrize("ways", ["call", "batch", "stream"])
    @pytest.mark.parametrize("turn", [0, 3])
    def test_when_the_model_fails_midway(self, ask, pool, monkeypatch, error, ways, turn):
        """While the error is held, with its traceback, the next request is answered all the same."""
        wanted = ask(RECORD)
        calls = iter(range(99))

        def failing(onnx, binding):
            if next(calls) == turn:
                raise error
            onnx.run_with_iobinding(binding)

        how = {
            "call": lambda: ask(RECORD),
            "batch": lambda: ask.batch(RECORDS),
            "stream": lambda: list(ask.stream(RECORD)),
        }[ways]
        with monkeypatch.context() as patched:
            patched.setattr("lmkit.runtime.causal_rows.run", failing)
            with pytest.raises(type(error)) as caught:
                how()

        assert caught.tb is not None
        assert pool.used_bytes == 0
        assert ask(RECORD) == wanted

    def test_when_options_leave_no_token(self, ask, pool):
        with pytest.raises(TaskError) as caught:
            ask(RECORD, suppress_tokens=list(range(ask.tokenizer.vocab_size)))

        assert caught.tb is not None
        assert pool.used_bytes == 0


def test_what_onnxruntime_says_comes_as_a_models_error(ask):
    state, _ = ask._session.begin([np.array([5])], [99])  # more than the toy has positions for

    with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
        any(state.step([5]) is None for _ in range(99))

    state.close()
    assert ask(RECORD).token_ids


def test_a_closed_state_takes_no_step(ask):
    state, _ = ask._session.begin([np.array([5])], [9])
    state.close()
    state.close()

    with pytest.raises(RuntimeError, match="after close"):
        state.step([5])
    with pytest.raises(RuntimeError, match="after close"):
        state.extend(0, np.array([5]))


class TestSeveralThreads:
    def test_get_the_answers_of_one(self, ask, pool):
        """Calls, batches and streams at once; some streams are left in their midst."""
        options = {"max_new_tokens": 20, **SAMPLED}
        wanted = [ask(record, **options) for record in RECORDS]
        found, failed = [], []

        def work(number):
            try:
                for turn in range(6):
                    place = (number + turn) % len(RECORDS)
                    way = turn % 3
                    if way == 0:
                        found.append((ask(RECORDS[place], **options), wanted[place]))
                    elif way == 1:
                        found.append((ask.batch(RECORDS, batch_size=3, **options), wanted))
                    else:
                        next(ask.stream(RECORDS[place], **options))
                        text = "".join(ask.stream(RECORDS[place], **options))
                        found.append((text, wanted[place].text))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failed == []
        assert len(found) == 48
        assert all(ours == theirs for ours, theirs in found)
        assert pool.used_bytes == 0
