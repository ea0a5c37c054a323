"""The tutorial, followed from its first page to its last in one folder."""

import os
import subprocess
import sys
import sysconfig
import venv

import attrs
import pytest

from .snippets import DOCS, Reader, programs

PAGES = sorted((DOCS / "tutorial").glob("[0-9]*.md"))
QUICK = 2  # the first pages only look; the others train, export and install


@pytest.fixture(scope="module")
def module_reader(tmp_path_factory):
    """A reader with an environment to install into, which finds lmkit where this one does."""
    root = tmp_path_factory.mktemp("tutorial")
    (root / "work").mkdir()
    venv.create(root / "venv", with_pip=False)
    python = root / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    here = [
        sysconfig.get_path("purelib"),
        *filter(None, os.environ.get("PYTHONPATH", "").split(":")),
    ]
    with open(f"{done.stdout.strip()}/here.pth", "w") as file:
        file.write("\n".join(here))
    environ = programs(root / "bin", str(python))
    pip = root / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip --python "{python}" "$@"\n')
    pip.chmod(0o755)
    return Reader(root / "work", environ | {"PIP_QUIET": "1"})


def test_the_pages_are_numbered_without_a_gap():
    assert [int(page.name.partition("-")[0]) for page in PAGES] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("page", PAGES[:QUICK], ids=lambda page: page.stem)
def test_a_page_that_looks_does_as_it_says(page, module_reader):
    module_reader.follow(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[QUICK:], ids=lambda page: page.stem)
def test_a_page_that_makes_does_as_it_says(page, module_reader):
    if not (module_reader.folder / "paint.jsonl").exists():  # slow tests alone
        for earlier in PAGES[:QUICK]:
            module_reader.follow(earlier)
    installs = (
        "pip install" in page.read_text("utf-8")
        or (module_reader.folder / "pyproject.toml").exists()
    )
    attrs.evolve(module_reader, inside=not installs).follow(page)
