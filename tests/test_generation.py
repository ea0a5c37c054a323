import json

import attrs
import numpy as np
import pytest

from lmkit.errors import TaskError, UnknownOption
from lmkit.generation import Generation


def test_the_defaults_are_greedy_and_change_nothing():
    assert attrs.asdict(Generation()) == {
        "max_new_tokens": 128,
        "min_new_tokens": 0,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "suppress_tokens": (),
        "num_beams": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "prompt_lookup_num_tokens": None,
        "seed": None,
        "stop": (),
    }


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("max_new_tokens", 0, "a whole number of 1 or more"),
        ("max_new_tokens", 1.5, "a whole number of 1 or more"),
        ("max_new_tokens", True, "a whole number of 1 or more"),
        ("min_new_tokens", -1, "a whole number of 0 or more"),
        ("temperature", -1, "a number of 0 or more, where 0 is greedy"),
        ("temperature", float("nan"), "a number of 0 or more, where 0 is greedy"),
        ("temperature", float("inf"), "a number of 0 or more, where 0 is greedy"),
        ("temperature", True, "a number of 0 or more, where 0 is greedy"),
        ("temperature", "1", "a number of 0 or more, where 0 is greedy"),
        ("top_k", -1, "a whole number of 0 or more, where 0 keeps every token"),
        ("top_k", None, "a whole number of 0 or more, where 0 keeps every token"),
        ("top_p", 0, "a number above 0 and up to 1, where 1 is off"),
        ("top_p", 1.01, "a number above 0 and up to 1, where 1 is off"),
        ("min_p", 1, "a number from 0 to below 1, where 0 is off"),
        ("min_p", -0.1, "a number from 0 to below 1, where 0 is off"),
        ("repetition_penalty", 0, "a number above 0, where 1 is off"),
        ("no_repeat_ngram_size", -2, "a whole number of 0 or more, where 0 is off"),
        ("encoder_no_repeat_ngram_size", -1, "a whole number of 0 or more, where 0 is off"),
        (
            "prompt_lookup_num_tokens",
            -1,
            "a whole number of 0 or more, where 0 is off, or None",
        ),
        ("forced_bos_token_id", -1, "a whole number of 0 or more, or None"),
        ("forced_eos_token_id", "</s>", "a whole number of 0 or more, or None"),
        ("suppress_tokens", (-1,), "whole numbers of 0 or more"),
        ("suppress_tokens", ("</s>",), "whole numbers of 0 or more"),
        ("suppress_tokens", "12", "whole numbers of 0 or more"),
        ("suppress_tokens", True, "whole numbers of 0 or more"),
        ("num_beams", 0, "a whole number of 1 or more, where 1 is no beam search"),
        ("length_penalty", float("inf"), "a number"),
        ("length_penalty", None, "a number"),
        ("early_stopping", "always", "True, False or 'never'"),
        ("early_stopping", 1, "True, False or 'never'"),
        ("seed", -1, "a whole number of 0 or more, or None"),
        ("seed", 1.0, "a whole number of 0 or more, or None"),
        ("stop", ("",), "strings, none of them empty"),
        ("stop", "", "strings, none of them empty"),
        ("stop", ("a", 1), "strings, none of them empty"),
        ("stop", 3, "strings, none of them empty"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_expected(field, given, expected):
    with pytest.raises(TaskError) as caught:
        Generation(**{field: given})

    assert str(caught.value).startswith(f"{field} is ")
    assert str(caught.value).endswith(f"; expected {expected}")


def test_a_negative_temperature_is_quoted_as_it_was_written():
    with pytest.raises(TaskError, match=r"^temperature is -1; expected a number of 0 or more"):
        Generation(temperature=-1)


def test_the_edges_of_every_range_are_allowed():
    Generation(max_new_tokens=1, min_new_tokens=1, top_p=1, min_p=0, seed=0)
    Generation(top_p=1e-9, min_p=0.999, repetition_penalty=0.1, temperature=1e-3)


def test_fewer_tokens_at_most_than_at_least_is_refused():
    with pytest.raises(TaskError, match="min_new_tokens is 5; expected at most max_new_tokens"):
        Generation(max_new_tokens=4, min_new_tokens=5)


def test_beams_are_not_drawn():
    with pytest.raises(TaskError, match=r"num_beams is 4 and temperature is 0\.7; expected temp"):
        Generation(temperature=0.7).override(num_beams=4)

    assert Generation(temperature=0.7).override(num_beams=4, temperature=0).num_beams == 4


def test_one_stop_string_and_a_list_of_them_become_a_tuple():
    assert Generation(stop="###").stop == ("###",)
    assert Generation(stop=["a", "b"]).stop == ("a", "b")


def test_numpy_numbers_become_plain_ones_so_that_json_can_hold_them():
    options = Generation(top_k=np.int64(3), temperature=np.float32(0.5), seed=np.int32(1))

    text = json.dumps(attrs.asdict(options))

    assert json.loads(text)["temperature"] == 0.5


def test_override_replaces_the_given_fields_and_keeps_the_rest():
    task = Generation(max_new_tokens=64, temperature=0.3, stop="###")

    once = task.override(temperature=0, stop=["\n"])

    assert once == Generation(max_new_tokens=64, stop=("\n",))
    assert task.temperature == 0.3


def test_override_checks_what_it_is_given():
    with pytest.raises(TaskError, match="top_p is 2"):
        Generation().override(top_p=2)
    with pytest.raises(TaskError, match="min_new_tokens is 9"):
        Generation(max_new_tokens=20, min_new_tokens=9).override(max_new_tokens=8)


def test_a_misspelt_option_is_refused_with_the_near_name():
    for attempt in (lambda: Generation(temprature=1), lambda: Generation().override(temprature=1)):
        with pytest.raises(UnknownOption, match="close to: temperature") as caught:
            attempt()

        assert caught.value.owner == "Generation"


def test_repr_shows_what_was_chosen():
    assert repr(Generation(top_k=5, seed=1)) == "Generation(top_k=5, seed=1)"


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_token_cannot_be_forced_and_forbidden(name):
    with pytest.raises(TaskError, match=rf"{name} is 3, and suppress_tokens has it"):
        Generation(**{name: 3}, suppress_tokens=[2, 3])


def test_token_ids_may_be_one_a_list_or_numpys():
    assert Generation(suppress_tokens=3).suppress_tokens == (3,)
    assert Generation(suppress_tokens=np.array([4, 5])) == Generation(suppress_tokens=[4, 5])
