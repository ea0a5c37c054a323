"""The built-in tasks pass the kit that everybody's tasks are checked with."""

import pytest

import lmkit as lk
from lmkit.testing import PROMISES, QUICK, check_task, sample_records

KINDS = {
    "alpaca": "instructions",
    "char-lm": "text",
    "chat": "chat",
    "classify": "labels",
    "mlm": "masked",
    "qa": "causal",
    "summarize": "seq2seq",
}
EXPORTED = {"chat", "classify", "mlm", "summarize"}  # a graph of each family takes ten seconds
NOT_OF_ONE_TEXT = {"end", "decode"}


def test_all_of_them_are_here():
    assert {task.name for task in lk.tasks()} >= set(KINDS)
    assert {p.name for p in lk.plugins() if p.builtin} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_keeps_what_needs_no_training(name):
    report = check_task(lk.get_task(name), sample_records(KINDS[name]), promises=QUICK)

    skipped = NOT_OF_ONE_TEXT if name == "char-lm" else set()
    assert set(report.skipped) == skipped
    assert set(report.kept) == set(QUICK) - skipped


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_is_learned_by_heart_and_answers_the_same_from_its_bundle(name):
    pytest.importorskip("torch")
    trained = [promise for promise in PROMISES if promise not in QUICK]
    chosen = trained if name in EXPORTED else trained[:1]

    report = check_task(lk.get_task(name), sample_records(KINDS[name]), promises=chosen)

    assert report.kept == tuple(chosen)
