"""The models of bodies say what `Generation` says."""

import attrs
import pytest

import lmkit as lk
from lmkit.serve.schemas import Options

FIELDS = {field.name: field for field in attrs.fields(lk.Generation)}


def test_the_options_are_the_fields_of_generation():
    assert list(Options.model_fields) == list(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_what_a_field_has_by_default_is_taken_and_means_the_same(name):
    default = FIELDS[name].default
    given = list(default) if isinstance(default, tuple) else default

    asked = Options(**{name: given}).overrides()

    assert lk.Generation().override(**asked) == lk.Generation()


def test_a_negative_seed_is_a_seed_of_its_own():
    assert Options(seed=-1).overrides() == {"seed": 2**64 - 1}


def test_a_whole_number_may_have_a_decimal_point():
    assert Options(max_new_tokens=16.0).overrides() == {"max_new_tokens": 16}
