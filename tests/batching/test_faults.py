"""What goes wrong with one request is that request's alone."""

import logging
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from runtime.toybundle import RECORD, RECORDS

import lmkit as lk
from lmkit.batching import Engine, Limits, Turn
from lmkit.errors import Busy, DeadlineExceeded, LmkitError, ModelError, TaskError
from lmkit.runtime.causal_state import CausalState

LONG = {"max_new_tokens": 30, "min_new_tokens": 30}


def submit(engine, *records, **options):
    return [engine.submit(engine.prepare(record, options=options)) for record in records]


def test_a_sampler_that_has_no_choice_fails_alone(engine, alone):
    everything = tuple(range(alone.session.vocab_size))
    bad = submit(engine, RECORD, suppress_tokens=everything)[0]
    good = submit(engine, *RECORDS)

    with pytest.raises(TaskError):
        bad.wait(60)
    assert [ticket.wait(60) for ticket in good] == [alone(record) for record in RECORDS]
    assert engine.stats().failed == 1


def test_logits_that_are_no_numbers_fail_alone(engine, alone, monkeypatch):
    step = CausalState.step

    def broken(self, tokens):
        logits = step(self, tokens)
        if len(tokens) > 1:
            logits[1] = np.nan
        return logits

    monkeypatch.setattr(CausalState, "step", broken)
    tickets = submit(engine, *RECORDS[:3], **LONG)
    outcomes = []
    for ticket in tickets:
        try:
            outcomes.append(ticket.wait(60))
        except ModelError as error:
            outcomes.append(type(error))
    monkeypatch.undo()

    assert outcomes.count(ModelError) >= 1
    assert outcomes[0] == alone(RECORDS[0], **LONG)


def test_a_prompt_that_cannot_be_read_fails_alone(engine, alone, monkeypatch):
    """Nothing is found of it: whoever has read its beginning could."""
    extend, bad = CausalState.extend, alone.prompt(RECORDS[1])

    def failing(self, row, ids, *, last=None):
        if ids.tolist() == bad.tolist():
            raise ModelError("cannot")
        return extend(self, row, ids, last=last)

    monkeypatch.setattr(CausalState, "extend", failing)
    monkeypatch.setattr(CausalState, "n_shared", lambda *_: 0)
    monkeypatch.setattr(CausalState, "take_known", lambda *_: 0)
    tickets = submit(engine, *RECORDS)
    with pytest.raises(ModelError, match="cannot"):
        tickets[1].wait(60)
    rest = [ticket.wait(60) for place, ticket in enumerate(tickets) if place != 1]
    monkeypatch.undo()

    assert rest == [alone(record) for place, record in enumerate(RECORDS) if place != 1]


def test_a_step_that_fails_together_is_taken_by_each_alone(engine, alone, monkeypatch):
    step, again = CausalState.step, CausalState.step_again

    def failing(self, tokens):
        if sum(token is not None for token in tokens) > 1:
            step(self, tokens)
            raise ModelError("together")
        return step(self, tokens)

    def failing_for_one(self, row):
        if row == 1:
            raise ModelError("alone")
        return again(self, row)

    monkeypatch.setattr(CausalState, "step", failing)
    monkeypatch.setattr(CausalState, "step_again", failing_for_one)
    tickets = submit(engine, *RECORDS[:3], **LONG)
    failed = [ticket for ticket in tickets if _error(ticket) is not None]
    monkeypatch.undo()

    assert 1 <= len(failed) < 3
    assert tickets[0].wait(0) == alone(RECORDS[0], **LONG)


def _error(ticket):
    try:
        ticket.wait(60)
    except LmkitError as error:
        return error
    return None


def test_a_partial_text_can_be_taken_when_the_time_is_over(alone):
    first = iter([1.1])
    with Engine(alone, on_news=lambda news: time.sleep(next(first, 0))) as engine:
        ticket = engine.submit(engine.prepare(RECORD, options=LONG, timeout=1))
        with pytest.raises(DeadlineExceeded, match="after 1 s"):
            ticket.wait(60)

    assert 0 < len(ticket.take().token_ids) < 30
    assert ticket.answer is None


def test_an_engine_that_fails_as_a_whole_goes_on_with_the_next(engine, alone, monkeypatch, caplog):
    def broken(self):
        raise OSError("all is lost")

    monkeypatch.setattr(Engine, "_let_in", broken)
    tickets = submit(engine, *RECORDS)
    for ticket in tickets:
        with pytest.raises(OSError, match="all is lost"):
            ticket.wait(60)
    monkeypatch.undo()

    assert submit(engine, RECORD)[0].wait(60) == alone(RECORD)
    assert "the engine failed" in caplog.text
    assert len({id(ticket.error) for ticket in tickets}) == len(tickets)


def test_an_error_that_cannot_be_copied_ends_nobodys_engine(engine, alone, monkeypatch):
    class Odd(Exception):
        def __init__(self, one, other):
            super().__init__(f"{one} {other}")

    def broken(self):
        raise Odd("all is", "lost")

    monkeypatch.setattr(Engine, "_let_in", broken)
    tickets = submit(engine, *RECORDS)
    for ticket in tickets:
        with pytest.raises(Odd, match="all is lost"):
            ticket.wait(10)
    monkeypatch.undo()

    assert submit(engine, RECORD)[0].wait(60) == alone(RECORD)


def test_as_many_as_there_are_rows_need_no_queue(alone):
    with Engine(alone, limits=Limits(max_rows=4, max_waiting=0)) as engine:
        answers = [ticket.wait(60) for ticket in submit(engine, *RECORDS)]

    assert answers == [alone(record) for record in RECORDS]


def test_a_listener_that_fails_stops_nobody(alone, caplog):
    def listener(news):
        raise RuntimeError("deaf")

    with caplog.at_level(logging.ERROR), Engine(alone, on_news=listener) as engine:
        assert submit(engine, RECORD)[0].wait(60) == alone(RECORD)
    assert "on_news" in caplog.text


def test_news_come_once_a_step_with_all_that_have_some(alone):
    seen = []
    with Engine(alone, on_news=seen.append) as engine:
        tickets = submit(engine, *RECORDS)
        for ticket in tickets:
            ticket.wait(60)

    assert set().union(*map(set, seen)) == set(tickets)
    assert len(seen) <= engine.stats().steps + 2 * len(tickets)


def test_closing_fails_what_would_take_longer_than_it_is_given(alone):
    told = threading.Event()
    engine = Engine(alone, limits=Limits(max_rows=1), on_news=lambda news: told.wait(0.05))
    tickets = submit(engine, *RECORDS, **LONG)
    engine.close(drain=0.2)

    for ticket in tickets:
        with pytest.raises(Busy):
            ticket.wait(0)
    engine.close()


LEAVING = """
import sys
import lmkit as lk
from lmkit.batching import Engine

engine = Engine(lk.load(sys.argv[1], threads=2, verify=False))
request = engine.prepare({"prompt": "x"}, options={"max_new_tokens": 50, "min_new_tokens": 50})
tickets = [engine.submit(request) for _ in range(100)]
"""


def test_a_process_that_ends_in_the_midst_of_it_ends_well(bundle):
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING, str(bundle)], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_engines_of_one_process_take_turns(bundle):
    turn = Turn()
    models = [lk.load(bundle, threads=1, verify=False) for _ in range(3)]
    engines = [Engine(model, turn=turn) for model in models]
    with turn:
        tickets = [ticket for engine in engines for ticket in submit(engine, *RECORDS * 3, **LONG)]
    answers = [ticket.wait(60) for ticket in tickets]
    ends = [max(t.finished_at for t in tickets[start : start + 12]) for start in (0, 12, 24)]
    for engine in engines:
        engine.close()

    assert answers == [models[0](record, **LONG) for record in RECORDS * 3] * 3
    began = min(ticket.queued_at for ticket in tickets)
    assert min(ends) - began > (max(ends) - began) / 3  # none was served out before another


@pytest.mark.parametrize("seed", range(3))
def test_whoever_comes_goes_or_fails_the_others_answers_are_those_alone(bundle, alone, seed):
    """Many threads, each with a mind of its own, and a model whose passes fail now and then."""
    expected = {
        (place, count): alone(record, max_new_tokens=count)
        for place, record in enumerate(RECORDS)
        for count in (1, 5, 12, 25)
    }
    model = lk.load(bundle, threads=1, verify=False)
    limits = Limits(max_rows=6, prefill_chunk=4, kv_bytes=5 * 64 * 128, max_waiting=64)
    everything = tuple(range(model.session.vocab_size))
    wrong: list[object] = []

    def caller(number: int) -> None:
        draw = random.Random(1000 * seed + number)
        for _ in range(12):
            key = draw.randrange(len(RECORDS)), draw.choice((1, 5, 12, 25))
            mood = draw.choice(("calm", "calm", "calm", "cancels", "fails", "hurries", "draws"))
            options = {"max_new_tokens": key[1]}
            if mood == "fails":
                options["suppress_tokens"] = everything
            if mood == "draws":
                options |= {"temperature": 0.8, "seed": 5}
            timeout = 0.002 if mood == "hurries" else None
            request = engine.prepare(RECORDS[key[0]], options=options, timeout=timeout)
            ticket = engine.submit(request)
            if mood == "cancels":
                while draw.random() < 0.7:
                    ticket.take()
                ticket.cancel()
            try:
                answer = ticket.wait(60)
            except (CancelledError, DeadlineExceeded, TaskError) as error:
                if mood in ("calm", "draws"):
                    wrong.append(error)
                continue
            except BaseException as error:
                wrong.append(error)
                raise
            if mood != "draws" and answer != expected[key]:
                wrong.append((key, answer, expected[key]))

    with Engine(model, limits=limits) as engine:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stats = engine.stats()

    assert wrong == []
    assert stats.finished + stats.failed + stats.cancelled == 12 * 12
    assert stats.rows == stats.waiting == 0
