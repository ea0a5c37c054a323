"""Rows of a causal model's buffers: prompts in parts, memory by need, and what others have read."""

import threading
import time

import numpy as np
import pytest
from runtime.toybundle import CONTEXT_LENGTH, RECORD, RECORDS, write_bundle
from runtime.toypair import RECORDS as SOURCES
from runtime.toypair import write_pair

import lmkit as lk
from lmkit.batching import Engine, Limits, Turn
from lmkit.batching.lanes import Line
from lmkit.errors import PromptTooLong, TaskError
from lmkit.runtime.causal_state import CausalState

PER_TOKEN = 4 * 2 * 2 * 8  # bytes: keys and values of two heads of eight numbers
LONG = {"max_new_tokens": 40, "min_new_tokens": 40}


def submit(engine, *records, **options):
    return [engine.submit(engine.prepare(record, options=options)) for record in records]


@pytest.fixture
def held(alone):
    """Return a function that makes an engine which computes nothing until it is let go."""
    gate, engines = threading.Event(), []

    class Gate:
        def __enter__(self):
            gate.wait(30)

        def __exit__(self, *error):
            pass

    def held(model=alone, **limits):
        engines.append(Engine(model, limits=Limits(**limits), turn=Gate()))
        return engines[-1], gate

    yield held
    gate.set()
    for engine in engines:
        engine.close()


@pytest.fixture
def read(monkeypatch):
    """Return how many tokens each pass over one row has read."""
    counts, extend = [], CausalState.extend

    def counting(self, row, ids, *, last=None):
        counts.append(len(ids))
        return extend(self, row, ids, last=last)

    monkeypatch.setattr(CausalState, "extend", counting)
    return counts


class TestPrompts:
    def test_are_read_in_parts_between_the_steps_of_those_who_write(self, bundle, held, read):
        model = lk.load(bundle, threads=1, verify=False, prefix_cache_bytes=0)
        engine, gate = held(model, prefill_chunk=4)
        writer = submit(engine, RECORD, **LONG)[0]
        reader = submit(engine, {"prompt": "x" * 30})[0]
        gate.set()
        reader.wait(60)
        writer.wait(60)

        assert max(read[1:]) <= 4
        assert 1 not in read
        assert reader.first_token_at > writer.first_token_at

    def test_are_read_in_larger_parts_where_several_wait(self, bundle, held, read):
        model = lk.load(bundle, threads=1, verify=False, prefix_cache_bytes=0)
        engine, gate = held(model, prefill_chunk=4)
        tickets = submit(engine, RECORD, **LONG)
        tickets += submit(engine, {"prompt": "x" * 30}, {"prompt": "y" * 30})
        gate.set()
        _, first, second = (ticket.wait(60).usage.prompt_tokens for ticket in tickets)

        behind_first = next(n for n in range(len(read)) if sum(read[1:n]) >= first)
        assert max(read[1:behind_first]) == 8
        assert (
            max(read[behind_first + 1 :]) <= 4
        )  # of the second alone; its first part had what was left
        assert sum(read[1:]) == first + second

    def test_that_begin_alike_are_read_once_even_while_they_wait(self, bundle, held, read):
        model = lk.load(bundle, threads=1, verify=False)
        engine, gate = held(model)
        records = [{"prompt": f"{'the same words ' * 2}{n}"} for n in range(5)]
        tickets = submit(engine, *records)
        gate.set()
        answers = [ticket.wait(60) for ticket in tickets]
        found = engine.stats().prefix_tokens
        n_prompts = sum(answer.usage.prompt_tokens for answer in answers)

        assert sum(read) == n_prompts - found
        assert found > n_prompts / 2
        assert answers == [model(record) for record in records]

    def test_of_a_next_turn_go_on_where_the_last_one_ended(self, engine, alone):
        first = submit(engine, {"prompt": "once upon a time"})[0].wait(60)
        before = engine.stats().prefix_tokens
        prompt = np.concatenate([alone.prompt({"prompt": "once upon a time"}), first.token_ids[:6]])
        again = engine.submit(engine.prepare([*prompt.tolist(), 40, 41]))
        again.wait(60)

        assert engine.stats().prefix_tokens - before >= len(prompt) - 8

    def test_of_one_token_are_read(self, engine, alone):
        answer = engine.submit(engine.prepare([40])).wait(60)

        expected = alone.greedy([np.array([40])], 12)[0]
        assert list(answer.token_ids) == expected

    @pytest.mark.parametrize("n_behind", [3, 5])
    def test_stand_behind_a_soft_prompt_in_every_row(self, tmp_path, n_behind):
        folder = write_bundle(tmp_path / "soft", behind=tuple(range(40, 40 + n_behind)))
        model = lk.load(folder, threads=1)
        with Engine(model, limits=Limits(max_rows=3)) as engine:
            tickets = submit(engine, *RECORDS * 3)

            assert [t.wait(60) for t in tickets] == [model(record) for record in RECORDS * 3]


class TestMemory:
    def test_is_no_more_than_the_bound(self, alone, held):
        room = 3 * CONTEXT_LENGTH * PER_TOKEN
        engine, gate = held(kv_bytes=room, max_rows=16)
        tickets = submit(engine, *RECORDS * 6, max_new_tokens=20)
        most = 0
        gate.set()
        while not all(ticket.done for ticket in tickets):
            most = max(most, engine.stats().kv_bytes_used)
            time.sleep(0.0002)

        assert 0 < max(most, engine.stats().kv_bytes_used) <= room
        assert [t.wait() for t in tickets] == [alone(r, max_new_tokens=20) for r in RECORDS * 6]

    @pytest.mark.parametrize("searches_first", [False, True])
    def test_is_no_more_where_some_are_searched_for(self, alone, held, monkeypatch, searches_first):
        room, most = 70 * PER_TOKEN, []
        engine, gate = held(kv_bytes=room)
        advance = Engine._step
        monkeypatch.setattr(
            Engine, "_step", lambda self: (advance(self), most.append(self.stats().kv_bytes_used))
        )
        wishes = [{"max_new_tokens": 30, "min_new_tokens": 30}, {"num_beams": 2}]
        wishes = wishes[::-1] * 3 if searches_first else wishes * 3
        tickets = [submit(engine, RECORD, **wish)[0] for wish in wishes]
        gate.set()

        assert [ticket.wait(60) for ticket in tickets] == [alone(RECORD, **w) for w in wishes]
        assert 0 < max(most) <= room

    def test_of_those_that_begin_together_is_held_to_their_end(self, tmp_path, monkeypatch):
        model, used = lk.load(write_pair(tmp_path / "pair"), threads=1), []
        step, pool = Engine._step, model.session.pool

        def watched(self):
            step(self)
            used.append((self._rows, self.stats().kv_bytes_used, pool.used_bytes))

        monkeypatch.setattr(Engine, "_step", watched)
        turn = Turn()
        longest, *_, shortest = sorted(SOURCES, key=lambda source: -len(model.prompt(source)))
        with Engine(model, turn=turn) as engine:
            with turn:
                submit(engine, longest, max_new_tokens=2, min_new_tokens=2)
                last = submit(engine, shortest, max_new_tokens=20, min_new_tokens=20)[0]
            last.wait(60)

        assert {rows for rows, *_ in used} == {2, 1, 0}
        assert len({told for rows, told, _ in used if rows}) == 1
        assert all(told == held for rows, told, held in used if rows)

    def test_bounds_an_answer_that_could_never_be_held(self, alone):
        prompt = alone.prompt(RECORD)
        with Engine(alone, limits=Limits(kv_bytes=(len(prompt) + 4) * PER_TOKEN)) as engine:
            answer = submit(engine, RECORD, **LONG)[0].wait(60)

            assert len(answer.token_ids) == 4
            assert answer.finish_reason == "length"
            with pytest.raises(TaskError, match="kv_bytes"):
                engine.prepare({"prompt": "x" * 40})
            with pytest.raises(PromptTooLong):
                engine.prepare([40] * CONTEXT_LENGTH)

    def test_who_came_first_is_not_overtaken(self, alone, held):
        engine, gate = held(kv_bytes=2 * CONTEXT_LENGTH * PER_TOKEN)
        small, large, late = (
            submit(engine, {"prompt": "x" * n}, max_new_tokens=8)[0] for n in (4, 46, 4)
        )
        more = submit(engine, *[{"prompt": "x" * 4}] * 6, max_new_tokens=8)
        gate.set()
        for ticket in (small, large, late, *more):
            ticket.wait(60)

        assert small.started_at <= large.started_at <= late.started_at

    def test_goes_back_when_nobody_has_come_for_a_while(self, alone, monkeypatch):
        monkeypatch.setattr("lmkit.batching.engine.IDLE_S", 0.02)
        with Engine(alone) as engine:
            submit(engine, RECORD)[0].wait(60)
            began = time.perf_counter()
            while engine.stats().kv_bytes_used and time.perf_counter() < began + 5:
                time.sleep(0.01)

            assert engine.stats().kv_bytes_used == 0
            assert alone.session.pool.idle_bytes == 0
            assert submit(engine, RECORD)[0].wait(60) == alone(RECORD)

    def test_is_not_touched_by_an_engine_without_work(self, engine):
        submit(engine, RECORD)[0].wait(60)
        time.sleep(0.05)
        began = time.process_time()
        time.sleep(0.3)

        assert time.process_time() - began < 0.03


class TestOneAlone:
    @pytest.fixture
    def repeating(self, tmp_path, monkeypatch):
        """Return a model that repeats itself, and always has as much guessed as there is."""
        monkeypatch.setattr("lmkit.runtime.pace.Pace.best_count", lambda *_, **__: 8)
        return lk.load(write_bundle(tmp_path / "again", says="abcabcabcabcabcabc"), threads=1)

    @pytest.fixture
    def verified(self, monkeypatch):
        counts, rewind = [], CausalState.rewind

        def counting(self, row, length):
            counts.append(length)
            rewind(self, row, length)

        monkeypatch.setattr(CausalState, "rewind", counting)
        return counts

    def test_is_guessed_for(self, repeating, verified):
        options = {"max_new_tokens": 30}
        with Engine(repeating) as engine:
            ticket = submit(engine, RECORD, **options)[0]
            answer = ticket.wait(60)
            n_guessed = len(verified)

        assert answer == repeating(RECORD, **options)
        assert n_guessed > 0

    def test_fails_alone_where_company_has_come_to_its_draft(self, repeating, monkeypatch):
        others = [repeating(record, max_new_tokens=3) for record in RECORDS[1:]]
        is_near, failed = Line.is_near, []

        def failing(self, *args):
            if company:
                raise TaskError("forbidden")
            return is_near(self, *args)

        def joining(news):
            if left and left.pop() == 0:
                company.extend(submit(engine, *RECORDS[1:], max_new_tokens=3))

        monkeypatch.setattr(Line, "is_near", failing)
        for n_before in range(1, 9):
            company, left = [], list(range(n_before))
            with Engine(repeating, on_news=joining) as engine:
                first = submit(engine, RECORD, max_new_tokens=30)[0]
                try:
                    first.wait(60)
                except TaskError as error:
                    failed.append(error)

                assert [ticket.wait(60) for ticket in company] == others
        assert failed

    def test_stays_what_it_is_when_company_comes_and_goes(self, repeating):
        expected = repeating(RECORD, max_new_tokens=30)
        others = [repeating(record, max_new_tokens=3) for record in RECORDS[1:]]
        with Engine(repeating) as engine:
            for _ in range(20):
                ticket = submit(engine, RECORD, max_new_tokens=30)[0]
                while not ticket.take().token_ids:
                    time.sleep(0.0002)
                company = submit(engine, *RECORDS[1:], max_new_tokens=3)

                assert [one.wait(60) for one in company] == others
                assert ticket.wait(60) == expected
