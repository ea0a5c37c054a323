import os
import subprocess
import sys

import attrs
import pytest

from lmkit.scaffold.naming import Names
from lmkit.scaffold.rendering import Author, write_plugin
from lmkit.scaffold.variants import Variant, variants

LONGEST = "a-name-of-just-thirty-letters"


@attrs.frozen
class Made:
    """A plugin that was written.

    Attributes:
        folder: where it is.
        names: what its things are called.
        variant: what it is made of.
    """

    folder: object
    names: Names
    variant: Variant

    @property
    def module(self):
        return self.folder / f"{self.names.module}.py"

    @property
    def samples(self):
        return self.folder / f"{self.names.name}.jsonl"

    @property
    def tests(self):
        return self.folder / "tests" / f"test_{self.names.identifier}.py"

    def change(self, path, before, after):
        """Break it: a text in one of its files becomes another."""
        text = path.read_text("utf-8")
        assert before in text, f"{path.name} has no {before!r}"
        path.write_text(text.replace(before, after), "utf-8")


def write(folder, name, variant):
    """Write a plugin, and what pip would write beside it, so that it is installed where it lies.

    A folder on the module path that has a `.dist-info` in it is an installed distribution.
    """
    names = Names(name)
    made = Made(folder / names.distribution, names, variant)
    write_plugin(made.folder, names, variant, Author("Ann Lee", "ann@example.org"))
    metadata = made.folder / f"{names.module}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {names.distribution}\nVersion: 0.1.0\n", "utf-8"
    )
    (metadata / "entry_points.txt").write_text(f"[lmkit]\n{name} = {names.module}\n", "utf-8")
    return made


def run_with(plugins, *command, cwd):
    """Run Python where some plugins are installed, as if pip had done it."""
    paths = [str(made.folder) for made in plugins]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    before = kept.get("PYTHONPATH")
    environ = {
        **kept,
        "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])]),
        "PYTHONIOENCODING": "utf-8",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def named_after(variant):
    """Return a name that says what a variant is made of."""
    parts = variant.parts if len(variant.parts) < 2 else ["full"]
    return "-".join(["of", variant.family, *parts])


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """Return every variant, and the longest name that there may be, written into one folder."""
    folder = tmp_path_factory.mktemp("everything")
    made = [write(folder, named_after(variant), variant) for variant in variants()]
    whole = max(variants(), key=lambda variant: len(variant.parts))
    return [*made, write(folder, LONGEST, whole)]
