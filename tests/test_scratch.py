import pytest

from lmkit.errors import ModelError
from lmkit.scratch import Scratch, parse_scratch, parse_value, scratch


def test_it_is_named_and_builds_nothing():
    assert scratch("gpt2", n_layer=4) == Scratch("gpt2", {"n_layer": 4})


@pytest.mark.parametrize(
    "model",
    [
        scratch("gpt2"),
        scratch("gpt2", n_layer=4, resid_pdrop=0.1),
        scratch("llama", hidden_act="silu"),
        scratch("gpt2", layer_types=["full", "sliding"], n_layer=2),
        scratch(
            "encoder-decoder",
            encoder={"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 16},
            decoder={"model_type": "bert", "rope": {"a": [1, 2], "b": 0.5}, "tied": True},
        ),
    ],
)
def test_its_text_form_means_the_same_model(model):
    assert parse_scratch(str(model)) == model


@pytest.mark.parametrize("model", [scratch("gpt2", tied=True), scratch("gpt2", tied=None)])
def test_python_words_in_the_text_form_are_what_they_say(model):
    assert parse_scratch(str(model)) == model


def test_spaces_around_the_parts_do_not_matter():
    assert parse_scratch("scratch: gpt2 , n_layer = 4") == scratch("gpt2", n_layer=4)


@pytest.mark.parametrize(
    "text", ["scratch:gpt2,", "scratch:gpt2,n_layer", "scratch:gpt2,n_layer:4"]
)
def test_a_part_that_is_not_name_and_value_is_refused(text):
    with pytest.raises(ModelError, match="is not name=value, such as n_layer=4"):
        parse_scratch(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4", 4),
        ("3e-5", 3e-5),
        ("true", True),
        ("True", True),
        ("null", None),
        ("None", None),
        ("[1, 2]", [1, 2]),
        ('"4"', "4"),
        ("cosine", "cosine"),
        ("", ""),
    ],
)
def test_a_typed_value_is_json_where_it_is_json_and_text_otherwise(text, meant):
    found = parse_value(text)

    assert found == meant
    assert type(found) is type(meant)
