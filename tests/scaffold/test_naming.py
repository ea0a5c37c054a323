import importlib.metadata
import re

import pytest

from lmkit.errors import DuplicateName, TaskError
from lmkit.scaffold import naming
from lmkit.scaffold.naming import MOST_LETTERS, Names, named, suggestion


@pytest.mark.parametrize(
    ("name", "distribution", "module", "constant"),
    [
        ("haiku", "lmkit-haiku", "lmkit_haiku", "HAIKU"),
        ("ko-qa", "lmkit-ko-qa", "lmkit_ko_qa", "KO_QA"),
        ("ko_qa", "lmkit-ko-qa", "lmkit_ko_qa", "KO_QA"),
        ("k2", "lmkit-k2", "lmkit_k2", "K2"),
    ],
)
def test_everything_is_called_after_the_task(name, distribution, module, constant):
    names = named(name)

    assert (names.distribution, names.module, names.constant) == (distribution, module, constant)


@pytest.mark.parametrize("name", ["class", "none", "json", "typing", "test", "train", "new"])
def test_pythons_own_words_and_the_commands_verbs_can_be_names(name):
    """Everything in Python has `lmkit_` before it, is in capitals, or has an ending of its own."""
    assert named(name).module.isidentifier()


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("하이쿠", "haiku"),
        ("한국어 질문", "hangukeo-jilmun"),
        ("시조", "sijo"),
        ("KoQA", "ko-qa"),
        ("HAIKU", "haiku"),
        ("café", "cafe"),
        ("a b", "a-b"),
        ("a.b/c", "a-b-c"),
        ("ko--qa", "ko-qa"),
        ("ko-_qa", "ko-qa"),
        ("-tanka", "tanka"),
        ("tanka-", "tanka"),
        ("2048", "task-2048"),
        ("3행시", "haengsi-3"),
        ("lmkit-haiku", "haiku"),
        ("lmkit_haiku", "haiku"),
        ("詩", "haiku"),
        ("", "haiku"),
        ("a" * 31, "a" * 30),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(given, instead):
    with pytest.raises(TaskError, match=re.escape(f"; try '{instead}'")):
        named(given)

    assert named(instead)


def test_hangul_in_letters_is_the_same_as_in_syllables():
    assert suggestion("하이쿠") == "haiku"


def test_the_longest_name_is_no_longer():
    assert named("a" * MOST_LETTERS)


@pytest.mark.parametrize(
    "name", ["chat", "alpaca", "qa", "mlm", "summarize", "char-lm", "char_lm", "classify"]
)
def test_a_built_in_tasks_name_is_taken(name):
    with pytest.raises(DuplicateName, match="of lmkit itself"):
        named(name)


def test_a_built_in_plugins_module_is_taken():
    """The task is char-lm, and its module lmkit_charlm: another one would hide it."""
    with pytest.raises(DuplicateName, match="there is a module lmkit_charlm"):
        named("charlm")


def test_lmkits_own_distribution_is_taken():
    """`lmkit-tasks` is what lmkit itself is installed as."""
    with pytest.raises(DuplicateName, match=r"'tasks' is taken: lmkit-tasks .* is installed"):
        named("tasks")


def test_a_plugin_that_is_switched_off_keeps_its_name(monkeypatch):
    from lmkit.plugins import load

    found = importlib.metadata.entry_points(group="lmkit")
    monkeypatch.setattr(naming, "installed", lambda: load(found, {"LMKIT_PLUGINS": ""}))

    with pytest.raises(DuplicateName, match="switched off"):
        named("summarize")


def test_another_name_is_proposed_for_one_that_is_taken():
    with pytest.raises(DuplicateName, match="such as 'my-qa'"):
        named("qa")

    assert Names("my-qa") == named("my-qa")
