"""Name a plugin: from one name follow its distribution, its module, and what they are called in code."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import unicodedata

import attrs

from lmkit.errors import DuplicateName, TaskError
from lmkit.hooks import PROJECT
from lmkit.plugins import DISTRIBUTION, Plugin, installed

MOST_LETTERS = 30  # what stays readable in a class of its own line, and in `pip list`
_NAME = re.compile(r"[a-z](?:[-_]?[a-z0-9])*")
_PREFIX = re.compile(rf"{PROJECT}[-_]")

# How Hangul's letters are spelt, without what they do to each other. Source: Revised Romanization
# of Korean (Ministry of Culture and Tourism, 2000); the order is Unicode's, chapter 3.12.
_INITIALS = "g kk n d tt r m b pp s ss  j jj ch k t p h".split(" ")  # noqa: SIM905
_VOWELS = "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i".split(" ")  # noqa: SIM905
_FINALS = " k k k n n n t l k m l l l p l m p p t t ng t t k t p t".split(" ")  # noqa: SIM905


@attrs.frozen
class Names:
    """What a plugin's things are called.

    Attributes:
        name: the task's and the entry point's.

    >>> names = Names("ko-qa")
    >>> names.distribution, names.module, names.constant
    ('lmkit-ko-qa', 'lmkit_ko_qa', 'KO_QA')
    """

    name: str

    @property
    def distribution(self) -> str:
        """What pip installs, and the folder."""
        return f"{PROJECT}-{self.name.replace('_', '-')}"

    @property
    def identifier(self) -> str:
        """The name as a part of one in Python."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> str:
        """What Python imports."""
        return f"{PROJECT}_{self.identifier}"

    @property
    def constant(self) -> str:
        """The task in its module."""
        return self.identifier.upper()


def named(given: str) -> Names:
    """Return the names of a plugin that can be made here.

    Raises:
        TaskError: the name cannot be a module's and a distribution's; the text has one that can.
        DuplicateName: something of that name is installed already.
    """
    if not _NAME.fullmatch(given) or len(given) > MOST_LETTERS or _PREFIX.match(given):
        raise TaskError(
            f"a plugin cannot be named '{given}': pip and Python want up to {MOST_LETTERS} small "
            f"letters a-z and digits, with single '-' or '_' between them ('{PROJECT}-' is put before "
            f"them); try '{suggestion(given)}'"
        )
    names = Names(given)
    taken = _taken(names)
    if taken is not None:
        raise DuplicateName(
            f"the name '{given}' is taken: {taken}; choose another, such as 'my-{given}'"
        )
    return names


def suggestion(given: str) -> str:
    """Return a name that could stand for one that cannot: Hangul is spelt out, accents go.

    >>> suggestion("하이쿠"), suggestion("KoQA v2"), suggestion("lmkit-café"), suggestion("3행시")
    ('haiku', 'ko-qa-v2', 'cafe', 'haengsi-3')
    """
    spelt = "".join(map(_spelt, unicodedata.normalize("NFC", given)))
    plain = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode("ascii")
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", plain).lower()
    words = _PREFIX.sub("", re.sub(r"[^a-z0-9]+", "-", apart).strip("-"))
    rest = words.lstrip("0123456789-")
    digits = words.removesuffix(rest).strip("-")
    if digits:
        rest = f"{rest or 'task'}-{digits}"
    return rest[:MOST_LETTERS].strip("-") or "haiku"


def _spelt(letter: str) -> str:
    """Return a syllable of Hangul in Latin letters, anything else as it is."""
    place = ord(letter) - 0xAC00
    if not 0 <= place < 11172:
        return letter
    initial, vowel, final = place // 588, place // 28 % 21, place % 28
    return _INITIALS[initial] + _VOWELS[vowel] + _FINALS[final]


def _taken(names: Names) -> str | None:
    """Return what has one of the names already, or None."""
    for plugin in installed().plugins:
        if _alike(plugin.name, names.name):
            return f"a plugin of {_of(plugin)} has it"
        task = next((task for task in plugin.tasks if _alike(task, names.name)), None)
        if task is not None:
            return f"'{task}' is a task of {_of(plugin)}"
    for plugin in installed().left_out:
        if _alike(plugin.name, names.name):
            return f"a plugin that is switched off has it, of {_of(plugin)}"
    try:
        version = importlib.metadata.version(names.distribution)
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is not None:
        return f"{names.distribution} {version} is installed"
    if importlib.util.find_spec(names.module) is not None:
        return f"there is a module {names.module}"
    return None


def _alike(one: str, other: str) -> bool:
    """Say whether two names differ only in how their words are joined."""
    return re.sub("[-_.]+", "-", one).lower() == re.sub("[-_.]+", "-", other).lower()


def _of(plugin: Plugin) -> str:
    return "lmkit itself" if plugin.distribution == DISTRIBUTION else plugin.source
