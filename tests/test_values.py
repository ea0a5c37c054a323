import copy
import pickle

import attrs
import pytest

from lmkit.errors import TaskError, UnknownOption
from lmkit.validators import FLAG, FRACTION, POSITIVE, TEXT, TEXTS, at_least, number, optional
from lmkit.values import value


@value(kw_only=True)
class Paper:
    name: str = "a4"
    sheets: int = 1
    tags: list[str] = attrs.field(factory=list)


@value
class Point:
    x: int
    y: int = 0


def test_an_unknown_keyword_is_refused_with_the_near_name():
    with pytest.raises(UnknownOption, match="close to: sheets") as caught:
        Paper(sheet=2)

    assert (caught.value.owner, caught.value.name) == ("Paper", "sheet")
    assert caught.value.known == ("name", "sheets", "tags")


def test_an_unknown_keyword_is_a_type_error_as_in_plain_python():
    with pytest.raises(TypeError):
        Paper(sheet=2)


def test_evolving_with_an_unknown_name_is_refused_too():
    with pytest.raises(UnknownOption, match="close to: sheets"):
        attrs.evolve(Paper(), sheet=2)


def test_a_missing_field_stays_a_plain_type_error():
    with pytest.raises(TypeError, match="missing 1 required"):
        Point()


def test_fields_are_keywords_unless_told_otherwise():
    with pytest.raises(TypeError):
        Paper("a5")

    assert Point(1, 2) == Point(x=1, y=2)


def test_a_value_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Paper().sheets = 2


def test_repr_leaves_out_what_equals_the_default():
    assert repr(Paper(sheets=3)) == "Paper(sheets=3)"
    assert repr(Paper()) == "Paper()"
    assert repr(Paper(tags=["x"])) == "Paper(tags=['x'])"


def test_repr_keeps_what_has_no_default():
    assert repr(Point(0)) == "Point(x=0)"


def test_repr_leaves_out_a_default_that_depends_on_another_field():
    @value(kw_only=True)
    class Sized:
        width: int
        height: int = attrs.field()

        @height.default
        def _square(self):
            return self.width

    assert repr(Sized(width=2)) == "Sized(width=2)"
    assert repr(Sized(width=2, height=3)) == "Sized(width=2, height=3)"


def test_a_class_keeps_its_own_repr_and_init():
    @value(kw_only=True)
    class Own:
        x: int

        def __init__(self, anything):
            self.__attrs_init__(x=anything)

        def __repr__(self):
            return "own"

    assert Own(3).x == 3
    assert repr(Own(3)) == "own"


def test_a_subclass_takes_its_parents_fields_and_names_itself_in_errors():
    @value(kw_only=True)
    class Card(Paper):
        weight: int = 300

    assert repr(Card(sheets=2, weight=1)) == "Card(sheets=2, weight=1)"
    with pytest.raises(UnknownOption, match="option of Card named 'wait'"):
        Card(wait=1)


def test_values_survive_copy_and_pickle():
    assert copy.deepcopy(Point(1)) == Point(1)
    assert pickle.loads(pickle.dumps(Paper(sheets=2))) == Paper(sheets=2)


def checked(check, given):
    @value(kw_only=True)
    class Holder:
        field: object = attrs.field(validator=check)

    return Holder(field=given).field


@pytest.mark.parametrize(
    ("check", "fit", "unfit"),
    [
        (at_least(1), [1, 10**9], [0, -1, True, 1.0, "1", None]),
        (at_least(0), [0], [-1, False]),
        (FRACTION, [0, 0.5, 1], [-0.1, 1.1, float("nan"), True, "0"]),
        (POSITIVE, [1e-9, 3], [0, float("inf"), None]),
        (FLAG, [True, False], [0, 1, None]),
        (TEXT, ["a"], ["", 1, None]),
        (TEXTS, [(), ("a",)], [("",), ["a"], "a", (1,)]),
        (optional(at_least(2)), [None, 2], [1, False]),
        (number("a number below 3", lambda x: x < 3), [2.9, -5], [3]),
    ],
)
def test_checks_let_through_what_they_describe_and_nothing_else(check, fit, unfit):
    for given in fit:
        assert checked(check, given) is given
    for given in unfit:
        with pytest.raises(TaskError, match=r"field is .*; expected "):
            checked(check, given)


def test_a_refusal_says_field_value_and_expectation():
    with pytest.raises(TaskError) as caught:
        checked(at_least(1, "where more is slower"), 0)

    assert str(caught.value) == (
        "field is 0; expected a whole number of 1 or more, where more is slower"
    )
