"""The engine: who joins and leaves changes nothing of anybody's answer."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from runtime.toybundle import RECORD, RECORDS

from lmkit.batching import Engine, Limits
from lmkit.errors import Busy, DeadlineExceeded, RecordError, TaskError, UnknownOption
from lmkit.runtime.causal_state import CausalState

LONG = {"max_new_tokens": 30, "stop": (), "min_new_tokens": 30}


def ask(engine, record, **options):
    return engine.submit(engine.prepare(record, options=options))


class TestAnAnswer:
    def test_is_that_of_a_call(self, engine, alone):
        assert ask(engine, RECORD).wait(60) == alone(RECORD)

    def test_is_that_of_a_call_in_company(self, engine, alone):
        tickets = [ask(engine, record, max_new_tokens=n) for n in (1, 3, 12) for record in RECORDS]

        assert [ticket.wait(60) for ticket in tickets] == [
            alone(record, max_new_tokens=n) for n in (1, 3, 12) for record in RECORDS
        ]

    def test_comes_in_pieces_that_are_its_text(self, engine, alone):
        ticket = ask(engine, RECORD)
        text, ids = "", []
        while not (update := ticket.take()).done:
            text, ids = text + update.text, [*ids, *update.token_ids]
            time.sleep(0.0002)
        answer = alone(RECORD)

        assert text + update.text == answer.text
        assert (*ids, *update.token_ids) == answer.token_ids

    @pytest.mark.parametrize("chunk", [2, 3, 7])
    def test_is_the_same_however_its_prompt_is_cut(self, alone, chunk):
        with Engine(alone, limits=Limits(prefill_chunk=chunk, max_rows=3)) as engine:
            tickets = [ask(engine, record) for record in RECORDS * 3]

            assert [ticket.wait(60) for ticket in tickets] == [alone(r) for r in RECORDS * 3]

    def test_of_ready_made_ids_is_that_of_their_record(self, engine, alone):
        ids = alone.prompt(RECORD)

        assert engine.submit(engine.prepare(ids.tolist())).wait(60) == alone(RECORD)

    def test_is_drawn_as_alone(self, engine, alone):
        options = {"temperature": 0.9, "top_p": 0.95, "seed": 3}
        tickets = [ask(engine, record, **options) for record in RECORDS]

        assert [ticket.wait(60) for ticket in tickets] == [alone(r, **options) for r in RECORDS]

    def test_of_beams_is_that_of_a_call(self, engine, alone):
        tickets = [ask(engine, record, num_beams=3) for record in RECORDS]
        plain = [ask(engine, record) for record in RECORDS]

        assert [t.wait(60) for t in tickets] == [alone(r, num_beams=3) for r in RECORDS]
        assert [t.wait(60) for t in plain] == [alone(r) for r in RECORDS]


class TestARequest:
    def test_that_is_wrong_is_refused_before_it_waits(self, engine):
        with pytest.raises(RecordError):
            engine.prepare({})
        with pytest.raises(UnknownOption):
            engine.prepare(RECORD, options={"temprature": 1})
        with pytest.raises(TaskError):
            engine.prepare(RECORD, logit_bias={10**6: 1})

    def test_that_is_cancelled_ends_alone(self, engine):
        tickets = [ask(engine, RECORD, **LONG) for _ in range(3)]
        tickets[1].cancel()

        with pytest.raises(CancelledError):
            tickets[1].wait(60)
        assert len(tickets[0].wait(60).token_ids) == 30
        assert engine.stats().cancelled == 1

    def test_beyond_the_queue_is_refused(self, alone):
        gate = threading.Event()
        limits = Limits(max_rows=1, max_waiting=1)
        with Engine(alone, limits=limits, on_news=lambda news: gate.wait(30)) as engine:
            first = ask(engine, RECORD, **LONG)
            while not engine.stats().rows and not first.started_at:
                time.sleep(0.001)
            second = ask(engine, RECORD)
            with pytest.raises(Busy) as caught:
                ask(engine, RECORD)
            gate.set()
            assert second.wait(60)
            assert first.wait(60)
        assert caught.value.retry_after >= 1

    def test_that_has_a_row_is_not_in_the_queue_nor_is_its_row_free(self, alone, monkeypatch):
        gate, read = threading.Event(), CausalState.extend

        def waiting(self, *args, **more):
            gate.wait(30)
            return read(self, *args, **more)

        monkeypatch.setattr(CausalState, "extend", waiting)
        with Engine(alone, limits=Limits(max_rows=1, max_waiting=1)) as engine:
            first = ask(engine, RECORD)
            while engine.stats().waiting or not first.started_at:
                time.sleep(0.001)
            second = ask(engine, RECORD)
            with pytest.raises(Busy):
                ask(engine, RECORD)
            gate.set()
            assert first.wait(60) == second.wait(60)

    def test_out_of_time_fails(self, engine):
        ticket = engine.submit(engine.prepare(RECORD, options=LONG, timeout=1e-6))

        with pytest.raises(DeadlineExceeded):
            ticket.wait(60)


def test_scores_are_the_models_own(engine, alone):
    request = engine.prepare(RECORD, n_logprobs=2, options={"temperature": 0.7, "seed": 1})
    ticket = engine.submit(request)
    answer = ticket.wait(60)
    scores = ticket.take().scores
    logits = alone.forced(request.prompt, np.array(answer.token_ids)).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    assert [score.token_id for score in scores] == list(answer.token_ids)
    for place, score in enumerate(scores):
        assert score.logprob == pytest.approx(expected[place, score.token_id], abs=1e-4)
        assert [top[0] for top in score.top] == np.argsort(-expected[place])[:2].tolist()


def test_a_closed_engine_takes_no_more(alone):
    engine = Engine(alone)
    ticket = ask(engine, RECORD)
    engine.close(drain=10)

    assert ticket.wait(0) == alone(RECORD)
    with pytest.raises(Busy):
        ask(engine, RECORD)
