import pytest

import lmkit as lk
from lmkit.errors import UnknownName
from lmkit.testing import sample_records, tiny_model

KINDS = {
    "alpaca": "instructions",
    "char-lm": "text",
    "chat": "chat",
    "classify": "labels",
    "mlm": "masked",
    "qa": "causal",
    "summarize": "seq2seq",
}


@pytest.mark.parametrize("name", KINDS)
def test_ten_records_fit_each_built_in_task(name):
    task, records = lk.get_task(name), sample_records(KINDS[name])

    assert len(records) == 10
    assert all(set(record) <= set(task.columns) for record in records)
    assert len({str(record) for record in records}) == 10


def test_a_family_is_a_kind_of_records_too():
    assert sample_records(lk.Family.MASKED) == sample_records("masked")


def test_records_are_the_callers_own():
    sample_records("chat")[0]["messages"].clear()

    assert sample_records("chat")[0]["messages"]


def test_an_unknown_kind_is_refused_with_the_near_name():
    with pytest.raises(UnknownName, match="close to: seq2seq"):
        sample_records("seq2sec")


def test_a_tiny_model_takes_other_values():
    model = tiny_model("seq2seq", num_layers=1)

    assert (model.model_type, model.config["num_layers"]) == ("t5", 1)
    assert tiny_model(lk.Family.CAUSAL).config["num_hidden_layers"] == 2
