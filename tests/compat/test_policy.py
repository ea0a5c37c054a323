"""docs/compatibility.md says what the code does."""

import re
from pathlib import Path

import pytest
from plugins.test_loading import module, third_party

import lmkit
from lmkit.deprecating import LmkitDeprecationWarning
from lmkit.hooks import Hooks, hookimpl, hookspec
from lmkit.plugins import CHOOSE, DISABLE, FILES, STRICT, load, loading
from lmkit.saving.manifest import FORM
from lmkit.saving.taskfile import SCHEMA

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text("utf-8")


def rows(title):
    """Return the first cells of the table under a title cell."""
    [table] = re.findall(rf"^\| {title} \|.*\n((?:\|.*\n)+)", PAGE, re.M)
    return [line.split("|")[1].strip() for line in table.splitlines()[1:]]


@pytest.mark.parametrize(("title", "form"), [("`lmkit.json`", FORM), ("`task.json`", SCHEMA)])
def test_every_schema_has_a_row(title, form):
    assert rows(re.escape(title)) == [str(version) for version in range(1, form.newest + 1)]


def test_every_deprecated_name_has_a_row():
    deprecated = PAGE.partition("Deprecated now:")[2].partition("\n## ")[0]

    assert re.findall(r"^\| `lmkit\.(\w+)`.*`(lmkit\.[\w.]+)` \|$", deprecated, re.M) == [
        (name, f"lmkit.{home}.{name}") for name, home in lmkit._MOVED.items()
    ]


def test_what_is_deprecated_goes_two_minor_versions_later():
    for since, gone in re.findall(r"\| 0\.(\d+) \| 0\.(\d+) \|", PAGE):
        assert int(gone) >= int(since) + 2


def test_every_hook_and_switch_is_named():
    for name in [
        *(name for name in vars(Hooks) if name.startswith("lmkit_")),
        CHOOSE,
        DISABLE,
        FILES,
        STRICT,
    ]:
        assert f"`{name}`" in PAGE


def test_a_deprecated_hook_is_told_of_the_plugin_that_has_it(monkeypatch):
    class Later(Hooks):
        @hookspec(warn_on_impl=LmkitDeprecationWarning("lmkit_old will be gone in 0.3"))
        def lmkit_old(self):
            """A hook that is to go."""

    monkeypatch.setattr(loading, "Hooks", Later)
    old = module(lmkit_old=hookimpl(lambda: ()))

    with pytest.warns(LmkitDeprecationWarning, match="lmkit_old will be gone"):
        result = load([third_party("a", old)], {})

    [told] = result.plugins[0].deprecated
    assert told.startswith("lmkit_old will be gone in 0.3")
    assert __file__ in told


def test_a_hook_that_is_given_more_than_a_plugin_takes_still_works(monkeypatch):
    class Later(Hooks):
        @hookspec
        def lmkit_tasks(self, registry):
            """A hook with an argument that came later."""

    monkeypatch.setattr(loading, "Hooks", Later)

    assert (
        load([third_party("a", module(tasks=[lmkit.get_task("qa").evolve(name="t")]))], {})
        .plugins[0]
        .error
        is None
    )
