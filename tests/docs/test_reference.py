"""Nothing that lmkit promises is missing from the reference, and nothing in it has gone from lmkit."""

import importlib
import inspect
import re

import pytest

import lmkit as lk
import lmkit.testing
from lmkit.cli.main import VERBS, cli
from lmkit.errors import LmkitError
from lmkit.hooks import Hooks

from .snippets import DOCS

PAGES = {page.stem: page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md")}
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)", re.MULTILINE)
DESCRIBED = {name for text in PAGES.values() for name in DIRECTIVE.findall(text)}
HOOKS = [name for name in vars(Hooks) if name.startswith("lmkit_")]


@pytest.mark.parametrize("name", ["hooks", "parts"])
def test_a_page_with_examples_does_as_it_says(name, reader):
    reader.follow(DOCS / "reference" / f"{name}.md")


def homes(name):
    """Return the names under which a public one may stand: its own, and its definition's."""
    found = getattr(lk, name)
    names = {f"lmkit.{name}"}
    if inspect.isclass(found) or inspect.isfunction(found):
        names.add(f"{found.__module__}.{found.__qualname__}")
        names.add(found.__module__ if f"automodule:: {found.__module__}" in PAGES["errors"] else "")
    return names


@pytest.mark.parametrize("name", lk.__all__)
def test_every_public_name_is_described(name):
    assert homes(name) & DESCRIBED


def test_what_is_described_is_there():
    gone = []
    for name in DESCRIBED:
        module, _, attribute = name.rpartition(".")
        if not attribute.startswith("lmkit_") and not hasattr(
            importlib.import_module(module), attribute
        ):
            gone.append(name)

    assert gone == []


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_described_with_its_arguments(hook):
    signature = inspect.signature(getattr(Hooks, hook))
    arguments = [str(found) for name, found in signature.parameters.items() if name != "self"]
    wanted = f".. py:function:: {hook}({', '.join(arguments)}) -> {signature.return_annotation}"

    assert wanted in PAGES["hooks"]
    assert f"def {hook}({', '.join(arguments)}):" in PAGES["hooks"], "an example is missing"


def test_no_hook_is_described_that_is_none():
    assert {name for name in DESCRIBED if name.startswith("lmkit_")} == set(HOOKS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_described(verb):
    described = re.search(
        rf"^\.\. click:: ([\w.]+):(\w+)\n   :prog: lmkit {verb}$", PAGES["cli"], re.M
    )

    assert described
    found = getattr(importlib.import_module(described[1]), described[2])
    assert found is cli.get_command(None, verb)


@pytest.mark.parametrize(
    "switch",
    ["LMKIT_PLUGINS", "LMKIT_DISABLE_PLUGINS", "LMKIT_PLUGIN_FILES", "LMKIT_STRICT_PLUGINS"],
)
def test_every_switch_of_plugins_is_described(switch):
    assert f"`{switch}" in PAGES["hooks"]


def test_every_finding_is_described():
    source = DOCS.parent / "lmkit" / "previewing"
    texts = [file.read_text("utf-8") for file in source.rglob("*.py")]
    names = {name for text in texts for name in re.findall(r'\bname="([a-z-]+)"', text)}

    assert names == set(re.findall(r"^\| `([a-z-]+)`", PAGES["findings"], re.MULTILINE))


@pytest.mark.parametrize("name", sorted(set(lmkit.testing.__all__) - {"PROMISES", "QUICK"}))
def test_what_tests_are_made_with_is_described(name):
    assert f"lmkit.testing.{name}" in DESCRIBED


def test_every_promise_is_described_in_its_order():
    [table] = re.findall(r"^\| promise .*?\n\n", PAGES["testing"], re.MULTILINE | re.DOTALL)

    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == lmkit.testing.PROMISES


def test_every_fixture_is_described():
    from lmkit.testing import pytest_plugin

    source = inspect.getsource(pytest_plugin)
    fixtures = re.findall(r"^@pytest\.fixture.*\ndef (\w+)", source, re.MULTILINE)
    [table] = re.findall(r"^\| fixture .*", PAGES["testing"], re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == fixtures


def test_every_error_stands_in_the_tree():
    """The tree opens the errors' page, and says which one to catch."""
    import lmkit.errors

    tree = lmkit.errors.__doc__
    errors = [
        name
        for name, found in vars(lmkit.errors).items()
        if inspect.isclass(found) and issubclass(found, LmkitError)
    ]

    assert [name for name in errors if not re.search(rf"\b{name}\b", tree)] == []


def test_every_built_in_task_is_described_with_its_columns():
    described = re.findall(
        r"^\| `([\w-]+)` \| (\w+) \| ([\w, ;]+) \|", PAGES["builtin"], re.MULTILINE
    )
    found = [
        (task.name, str(task.family), {*task.columns, *task.prompt_columns})
        for task in lk.tasks()
        if next(p for p in lk.plugins() if task.name in p.tasks).builtin
    ]

    words = [
        (name, family, set(re.findall(r"[\w]+", columns)) - {"when", "asked"})
        for name, family, columns in described
    ]
    assert sorted(words, key=str) == sorted(found, key=str)


def test_each_built_in_task_is_trained_exported_and_asked():
    for task in re.findall(r"^## `([\w-]+)`$", PAGES["builtin"], re.MULTILINE):
        for verb in (
            f"lmkit train {task} ",
            f"lmkit export runs/{task} ",
            f"lmkit generate bundles/{task} ",
        ):
            assert verb in PAGES["builtin"]
