"""Every bundle is served by the same engine: what waits together is answered together, as alone."""

import time

import pytest
from runtime.toybundle import RECORDS, TASK, write_bundle
from runtime.toymasked import RECORD as MASKED
from runtime.toymasked import write_masked_bundle
from runtime.toypair import RECORDS as SOURCES
from runtime.toypair import write_pair

import lmkit as lk
from lmkit.batching import Engine, Limits, Turn
from lmkit.errors import ModelError, RecordError, TaskError

TEXT = lk.Task(
    name="text",
    formatter=lk.context("{prompt}").when("prompt") + lk.target("{text}"),
    collator=lk.BlockCollator(block_size=15),
    decoder=lk.TextDecoder(strip=False),
    generation=lk.Generation(max_new_tokens=40),
)


def choosing(folder):
    labels = lk.LabelDecoder(labels=("긍정", "부정", "so so"))
    return write_bundle(folder, task=TASK.evolve(decoder=labels))


KINDS = {
    "labels": (choosing, RECORDS),
    "masks": (write_masked_bundle, [MASKED]),
    "pairs": (write_pair, SOURCES),
    "windows": (lambda folder: write_bundle(folder, task=TEXT), RECORDS),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    write, records = KINDS[request.param]
    return lk.load(write(tmp_path_factory.mktemp("kind") / "bundle"), threads=1), records


def submit(engine, records, **options):
    return [engine.submit(engine.prepare(record, options=options)) for record in records]


def assert_alike(answers, expected):
    """Compare answers: sums that are added up in another order differ in the last bits."""
    for answer, other in zip(answers, expected, strict=True):
        assert (answer.text, answer.usage) == (other.text, other.usage)
        assert answer.token_ids == other.token_ids
        if answer.probabilities is not None:
            assert answer.probabilities == pytest.approx(other.probabilities, rel=1e-4)


def test_many_requests_get_the_answers_of_calls(kind):
    model, records = kind
    with Engine(model, limits=Limits(max_rows=5)) as engine:
        answers = [ticket.wait(60) for ticket in submit(engine, records * 5)]
        stats = engine.stats()

    assert_alike(answers, [model(record) for record in records] * 5)
    assert stats.finished == len(answers)
    assert stats.prompt_tokens == sum(answer.usage.prompt_tokens for answer in answers)
    assert stats.completion_tokens == sum(answer.usage.completion_tokens for answer in answers)


def test_the_pieces_are_the_text(kind):
    model, records = kind
    with Engine(model) as engine:
        ticket = submit(engine, records[:1])[0]
        text = ""
        while not (update := ticket.take()).done:
            text += update.text
            time.sleep(0.0002)

    assert text + update.text == model(records[0]).text


def test_a_request_that_is_cancelled_lets_the_others_go_on(kind):
    model, records = kind
    with Engine(model) as engine:
        tickets = submit(engine, records * 4)
        tickets[0].cancel()

        assert_alike([t.wait(60) for t in tickets[1:]], [model(r) for r in (records * 4)[1:]])


def test_what_a_request_lacks_is_said_at_once(kind):
    model, records = kind
    column = next(iter(records[0]))
    with Engine(model) as engine, pytest.raises(RecordError):
        engine.prepare({column: [7]})


@pytest.mark.parametrize("name", ["labels", "masks"])
def test_what_is_not_written_is_not_steered(tmp_path, name):
    write, records = KINDS[name]
    with Engine(lk.load(write(tmp_path / "bundle"), threads=1)) as engine:
        for wish in ({"options": {"temperature": 1}}, {"n_logprobs": 1}, {"logit_bias": {1: 1}}):
            with pytest.raises(TaskError):
                engine.prepare(records[0], **wish)
        with pytest.raises(TaskError):
            engine.prepare([1, 2, 3])


def test_a_pass_that_fails_fails_only_for_whom_it_fails_alone(tmp_path, monkeypatch):
    model = lk.load(choosing(tmp_path / "bundle"), threads=1)
    bad, log_probs = RECORDS[1], type(model).log_probs
    prompt = model.prompt(bad)

    def failing(self, rows):
        if any(row.input_ids[: len(prompt)].tolist() == prompt.tolist() for row in rows):
            raise ModelError("no")
        return log_probs(self, rows)

    monkeypatch.setattr(type(model), "log_probs", failing)
    with Engine(model) as engine:
        tickets = submit(engine, RECORDS)
        with pytest.raises(ModelError):
            tickets[1].wait(60)
        for ticket, record in zip(tickets, RECORDS, strict=True):
            if record is not bad:
                assert_alike([ticket.wait(60)], [model(record)])


def test_a_search_that_fails_fails_alone(bundle):
    """Whether it comes first or last among those that are searched for together."""
    model = lk.load(bundle, threads=1)
    options = {"num_beams": 2, "max_new_tokens": 8}
    everything = tuple(range(model.session.vocab_size))
    turn = Turn()
    with Engine(model, turn=turn) as engine:
        for bad in range(len(RECORDS)):
            wishes = [{"suppress_tokens": everything} if n == bad else {} for n in range(4)]
            with turn:
                tickets = [
                    submit(engine, [record], **options, **wish)[0]
                    for record, wish in zip(RECORDS, wishes, strict=True)
                ]
            with pytest.raises(TaskError):
                tickets.pop(bad).wait(60)
            good = [record for place, record in enumerate(RECORDS) if place != bad]

            assert [t.wait(60) for t in tickets] == [model(r, **options) for r in good]


def test_a_search_that_is_done_waits_for_no_other(bundle):
    model = lk.load(bundle, threads=1)
    turn = Turn()
    with Engine(model, turn=turn) as engine:
        with turn:
            long, short = (
                submit(engine, RECORDS[:1], num_beams=2, max_new_tokens=n, min_new_tokens=n)[0]
                for n in (40, 4)
            )
        long.wait(60)
        short.wait(60)

    assert long.started_at < short.started_at < short.finished_at < long.finished_at


def test_seq2seq_rows_have_samplers_of_their_own(tmp_path):
    model = lk.load(write_pair(tmp_path / "pair"), threads=1)
    wishes = [{"temperature": 0.9, "seed": seed, "top_k": 9} for seed in range(6)]
    wishes += [{"max_new_tokens": 3}, {"num_beams": 3}, {"num_beams": 2}, {"num_beams": 3}]
    with Engine(model) as engine:
        tickets = [submit(engine, SOURCES[:1], **wish)[0] for wish in wishes]

        assert [t.wait(60) for t in tickets] == [model(SOURCES[0], **wish) for wish in wishes]
