"""What code is: the same while it does the same, another when anything that it refers to changes."""

import re
import sys
import types

import pytest

import lmkit as lk
from lmkit.train.preparing.codeprint import Unknowable, code_of

SOURCE = """
import re
{imports}
LIMIT = {limit}
WORDS = re.compile({pattern!r})

def helper(text):
    return text{helper}

def clean(record):
    return {{**record, "prompt": helper(record["prompt"])[:LIMIT], "n": WORDS.flags}}
"""


@pytest.fixture
def module(tmp_path):
    """Return a function that makes a module of the user's from text."""
    made = []

    def module(name="own_module", text=None, **parts):
        usual = {"imports": "", "limit": 5, "pattern": "a+", "helper": ".strip()"}
        path = tmp_path / f"{name}.py"
        path.write_text(text or SOURCE.format(**{**usual, **parts}))
        found = types.ModuleType(name)
        found.__file__ = str(path)
        sys.modules[name] = found
        made.append(name)
        exec(compile(path.read_text(), str(path), "exec"), vars(found))
        return found

    yield module
    for name in made:
        sys.modules.pop(name, None)


def test_the_same_text_is_the_same_code(module):
    assert code_of(module().clean) == code_of(module().clean)


@pytest.mark.parametrize(
    "change",
    [{"limit": 6}, {"pattern": "a*"}, {"helper": ".lower()"}],
    ids=["value", "regex", "function"],
)
def test_what_a_function_refers_to_is_part_of_it(module, change):
    assert code_of(module().clean) != code_of(module(**change).clean)


def test_so_is_a_module_of_the_users_own(module):
    text = "import own_tools\ndef clean(record):\n    return own_tools.tidy(record)\n"
    found = []
    for body in ("return r", "return {}"):
        module("own_tools", f"def tidy(r):\n    {body}\n")
        found.append(code_of(module("own_user", text).clean))

    assert found[0] != found[1]


def test_so_are_constants_defaults_and_what_it_closes_over():
    def closing(n, default=1):
        return lambda record, k=default: record["x"] > n + k

    assert code_of(closing(1)) == code_of(closing(1))
    assert len({code_of(closing(1)), code_of(closing(2)), code_of(closing(1, 2))}) == 3


def test_lambdas_differ_by_what_they_do():
    assert code_of(lambda r: r["a"]) == code_of(lambda r: r["a"])
    assert code_of(lambda r: r["a"]) != code_of(lambda r: r["b"])
    assert code_of(lambda r: r["a"] + 1) != code_of(lambda r: r["a"] + 2)


def test_an_inner_function_counts():
    assert code_of(lambda r: [x + 1 for x in r]) != code_of(lambda r: [x - 1 for x in r])


def test_values_of_lmkit_and_installed_packages_can_be_told():
    task = lk.get_task("qa")

    assert code_of(lambda r: (task.name, re.sub("a", "b", r["x"]), pytest.approx(1)))


def test_what_has_no_text_is_refused_and_named():
    model = object()

    with pytest.raises(Unknowable, match=r"<lambda> refers to 'model', a object"):
        code_of(lambda r: model)


def test_what_is_imported_only_when_it_runs_is_refused_unless_it_is_loaded():
    def clean(record):
        import not_loaded_anywhere

        return not_loaded_anywhere.clean(record)

    with pytest.raises(Unknowable, match="which it imports when it runs"):
        code_of(clean)


def test_a_class_of_the_users_is_its_modules_text(module):
    one = module("own_parts", "class Part:\n    x = 1\n").Part
    first = code_of(one)
    other = module("own_parts", "class Part:\n    x = 2\n").Part

    assert first != code_of(other)


PARTS = """
import os
import attrs

LINES = {lines}

def shout(text):
    return text{helper}

@attrs.frozen
class Part:
    mark: str = "!"
    x = {x}

    def segments(self, record):
        return shout(record["a"])

    @classmethod
    def of_file(cls, path):
        return cls(open(path).read())
"""


def part_of(module, lines="[]", helper="", x="1"):
    return module("own_parts", PARTS.format(lines=lines, helper=helper, x=x)).Part


def test_so_are_the_values_that_a_class_and_its_module_have_by_now(module, monkeypatch):
    text = {
        "lines": "os.environ.get('LMKIT_TEST_LINES', '')",
        "x": "os.environ.get('LMKIT_TEST_X')",
    }
    found = [code_of(part_of(module, **text))]
    monkeypatch.setenv("LMKIT_TEST_LINES", "b")
    found.append(code_of(part_of(module, **text)))
    monkeypatch.setenv("LMKIT_TEST_X", "c")
    found.append(code_of(part_of(module, **text)))
    monkeypatch.undo()

    assert len(set(found)) == 3
    assert code_of(part_of(module, **text)) == found[0]


def test_a_class_whose_file_was_edited_meanwhile_is_neither_the_old_nor_the_new(module):
    new = code_of(part_of(module, x="lambda self: 2"))
    old = part_of(module, x="lambda self: 1")
    found = [code_of(old)]
    file = sys.modules["own_parts"].__file__
    with open(file, "w") as stream:
        stream.write(PARTS.format(lines="[]", helper="", x="lambda self: 2"))
    found.append(code_of(old))

    assert len({*found, new}) == 3


def test_a_class_in_whose_modules_place_is_another_is_refused(module):
    part = part_of(module)
    part_of(module, x="2")

    with pytest.raises(Unknowable, match="in whose module's place is another"):
        code_of(part)


@pytest.mark.parametrize("helper", [" + os.environ['A']", " + open('a').read()"])
def test_what_reads_something_that_may_change_is_refused(module, helper):
    part = part_of(module, helper=helper)

    with pytest.raises(Unknowable, match=r"shout refers to '(environ|open)'"):
        code_of(part)
    with pytest.raises(Unknowable, match=r"shout refers to '(environ|open)'"):
        code_of(sys.modules["own_parts"].shout)


def test_a_class_may_be_made_from_a_file(module):
    assert code_of(part_of(module)) == code_of(part_of(module))
