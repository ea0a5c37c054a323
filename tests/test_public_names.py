import importlib
import inspect
import subprocess
import sys

import pytest

import lmkit as lk

NAMES = [
    "Answer",
    "BlockCollator",
    "CausalCollator",
    "Chat",
    "Encoded",
    "ExactMatch",
    "Family",
    "FillMaskDecoder",
    "Generation",
    "LabelDecoder",
    "LmkitError",
    "MaskedCollator",
    "Segment",
    "Seq2SeqCollator",
    "Task",
    "TextDecoder",
    "Tokenizer",
    "chain",
    "context",
    "encode",
    "evaluate",
    "export",
    "get_task",
    "hookimpl",
    "keytoken_weighted",
    "load",
    "lora",
    "mix",
    "plugins",
    "preview",
    "prompt_ids",
    "prompt_tuning",
    "scratch",
    "target",
    "tasks",
    "train",
    "train_tokenizer",
]


def test_the_public_names_are_exactly_these():
    """A new name is a promise: add it here on purpose."""
    assert lk.__all__ == NAMES


def test_they_are_few_enough_to_see_at_a_glance():
    assert len(lk.__all__) <= 37


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_documented(name):
    found = getattr(lk, name)

    assert name in dir(lk)
    assert inspect.getdoc(found)


def test_a_star_import_brings_them_all():
    space = {}
    exec("from lmkit import *", space)

    assert set(NAMES) <= space.keys()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lmkit' has no attribute 'tran'"):
        lk.tran  # noqa: B018 - the access raises


def test_an_unknown_name_cannot_be_imported():
    with pytest.raises(ImportError, match="cannot import name 'tran'"):
        from lmkit import tran  # noqa: F401


@pytest.mark.parametrize("name", ["train", "export", "plugins", "scratch"])
def test_a_function_stays_one_when_the_module_of_its_name_is_imported(name):
    """The import system binds a submodule in its package, over whatever has its name there."""
    script = (
        f"import lmkit.{name}\n"
        "import lmkit, types\n"
        f"assert isinstance(lmkit.{name}, types.FunctionType), lmkit.{name}\n"
        f"from lmkit import {name}\n"
        f"assert isinstance({name}, types.FunctionType), {name}\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""


def test_such_a_module_can_still_be_imported_by_name():
    from lmkit.plugins import Plugin

    assert importlib.import_module("lmkit.plugins").Plugin is Plugin


def test_a_function_can_be_replaced_in_a_test(monkeypatch):
    monkeypatch.setattr(lk, "train", len)

    assert lk.train is len


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert lk.__version__ == version("lmkit-tasks")
