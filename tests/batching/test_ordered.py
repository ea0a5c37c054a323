"""A file's worth of records: in order, with no row idle while others wait."""

import functools

import pytest
from runtime.toybundle import RECORDS
from runtime.toypair import RECORDS as SOURCES
from runtime.toypair import write_pair

import lmkit as lk
from lmkit.batching import Engine, Turn
from lmkit.batching.ordered import in_order
from lmkit.errors import RecordError
from lmkit.runtime.causal_state import CausalState


def joined(found):
    return [answer for some in found for answer in some]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"temperature": 0.9, "seed": 3}])
def test_the_answers_are_those_of_calls(alone, batch_size, options):
    records = RECORDS * 3

    found = joined(in_order(alone, records, options, batch_size=batch_size))

    assert found == [alone(record, **options) for record in records]


def test_no_records_have_no_answers(alone):
    assert list(in_order(alone, [], {}, batch_size=4)) == []


def test_sources_are_answered_in_batches(tmp_path):
    model = lk.load(write_pair(tmp_path / "pair"), threads=1)

    assert joined(in_order(model, SOURCES * 2, {}, batch_size=4)) == model.batch(SOURCES * 2)


def test_a_row_that_is_free_is_taken_at_once(alone, monkeypatch):
    """In batches, every one takes as many steps as its longest answer."""
    lengths = [4, 40] * 6
    records = [{"prompt": "x" * (64 - 7 - length)} for length in lengths]
    counts, step = [], CausalState.step

    def counting(self, tokens):
        counts.append(len(tokens))
        return step(self, tokens)

    monkeypatch.setattr(CausalState, "step", counting)
    turn, submit, submitted = Turn(), Engine.submit, []

    def submitting(self, request):
        submitted.append(submit(self, request))
        if len(submitted) == len(records):
            turn.__exit__(None, None, None)
        return submitted[-1]

    monkeypatch.setattr(Engine, "submit", submitting)
    monkeypatch.setattr("lmkit.batching.ordered.Engine", functools.partial(Engine, turn=turn))
    turn.__enter__()  # nothing is computed before all have come
    options = {"max_new_tokens": 60, "min_new_tokens": 60, "prompt_lookup_num_tokens": 0}
    by_refilling = joined(in_order(alone, records, options, batch_size=4))
    n_refilled = len(counts)
    del counts[:]
    in_batches = [
        a for start in range(0, 12, 4) for a in alone.batch(records[start : start + 4], **options)
    ]

    assert by_refilling == in_batches
    assert n_refilled < 0.8 * len(counts)


def test_what_is_larger_than_is_held_is_answered_whole(alone, monkeypatch):
    options = {"max_new_tokens": 20, "min_new_tokens": 20}
    records = [{"prompt": "x" * n} for n in (2, 30, 10, 3, 36, 4)]
    of_a_token = alone.session.row_size(1, 0)
    monkeypatch.setattr("lmkit.batching.ordered.HELD_FLOATS", 36 * of_a_token)
    found = joined(in_order(alone, records, options, batch_size=2))

    assert found == [alone(record, **options) for record in records]
    assert {len(answer.token_ids) for answer in found} == {20}


def test_a_record_that_is_wrong_is_named(alone):
    with pytest.raises(RecordError):
        joined(in_order(alone, [*RECORDS, {}], {}, batch_size=2))
