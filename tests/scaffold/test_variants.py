import pytest

from lmkit.errors import TaskError, UnknownName
from lmkit.scaffold.variants import FAMILIES, PARTS, Variant, variants


def test_every_family_is_there_bare_with_each_part_and_with_all():
    found = variants()

    assert {variant.family for variant in found} == set(FAMILIES)
    assert {part for variant in found for part in variant.parts} == set(PARTS)
    assert len(found) == len(set(found)) == len(FAMILIES) * (len(PARTS) + 2) - 2


def test_parts_come_in_one_order_each_once():
    assert Variant("causal", ["loss", "decoder", "loss"]).parts == ("decoder", "loss")


def test_a_misspelt_part_is_refused_with_the_near_name():
    with pytest.raises(UnknownName, match="close to: collator"):
        Variant("causal", ["colator"])


def test_a_misspelt_family_is_refused_with_the_near_name():
    with pytest.raises(UnknownName, match="close to: masked"):
        Variant("mask")


@pytest.mark.parametrize(
    ("family", "part", "reason"),
    [("masked", "metric", "measured by its loss"), ("chat", "formatter", "by its chat template")],
)
def test_a_part_that_a_family_cannot_have_is_refused_with_the_reason(family, part, reason):
    with pytest.raises(TaskError, match=reason):
        Variant(family, [part])
