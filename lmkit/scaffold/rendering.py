"""Fill the template: names and a variant become the texts of a plugin's files.

Every `.jinja` file of the folder `template` becomes a file of the same place and name, without that
ending. `_families` has a file for each family and `_parts` one for each part, each of which sets, by
name, all that is particular to it: code, a test for it, and what both import.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import jinja2

from lmkit import __version__
from lmkit.errors import TaskError
from lmkit.files import new_folder
from lmkit.scaffold.naming import Names
from lmkit.scaffold.variants import Variant

TEMPLATE = Path(__file__).parent / "template"
PACKAGES = ("attrs", "click", "numpy")  # what a plugin may import, besides lmkit and Python itself
LINE = 88  # ruff's own width, which a new plugin begins with


@attrs.frozen
class Author:
    """Who the licence and the package name.

    Attributes:
        name: of a person or a group.
        email: where to write to, or nothing.

    >>> Author.read("Ann Lee <ann@example.org>")
    Author(name='Ann Lee', email='ann@example.org')
    """

    name: str
    email: str = ""

    @classmethod
    def read(cls, text: str) -> Author:
        """Return the author in `Name` or `Name <email>`; raise `TaskError` where there is no name."""
        match = re.fullmatch(r"\s*([^<>]*[^<>\s])\s*(?:<([^<>@\s]+@[^<>@\s]+)>)?\s*", text)
        if match is None or not text.isprintable():
            raise TaskError(
                f"the author is {text!r}; expected a name, or 'Name <name@example.org>'"
            )
        return cls(match[1], match[2] or "")


def write_plugin(folder: Path, names: Names, variant: Variant, author: Author) -> list[str]:
    """Make a plugin's folder, whole or not at all, and return the paths of its files.

    Raises:
        OutputExists: there is something at `folder`.
        LmkitError: the disk refuses.
    """
    files = render(names, variant, author)
    with new_folder(folder) as place:
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text, "utf-8", newline="\n")
    return list(files)


def render(names: Names, variant: Variant, author: Author) -> dict[str, str]:
    """Return the text of each of a plugin's files by its path, in order."""
    environment = _environment(names)
    known: dict[str, Any] = {
        "name": names.name,
        "identifier": names.identifier,
        "distribution": names.distribution,
        "module": names.module,
        "constant": names.constant,
        "variant": variant,
        "author": author,
        "year": datetime.date.today().year,
        "lmkit_version": __version__,
    }
    family = environment.get_template(f"_families/{variant.family}.jinja").make_module(known)
    known["family"] = family
    parts: dict[str, Any] = {}
    for part in variant.parts:
        of_family = f"_parts/{part}-{variant.family}.jinja"
        found = environment.select_template([of_family, f"_parts/{part}.jinja"])
        parts[part] = found.make_module(known)
    needs = [line for part in parts.values() for line in part.needs]
    known |= {
        "parts": parts,
        "components": [part.component for part in parts.values() if part.component],
        "packages": [name for name in PACKAGES if name in map(_root, needs)],
    }
    paths = [path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*.jinja")]
    files = {
        environment.from_string(path.with_suffix("").as_posix()).render(known): (
            environment.get_template(path.as_posix()).render(known)
        )
        for path in paths
        if not path.parts[0].startswith("_")
    }
    return dict(sorted(files.items(), key=lambda item: (item[0].count("/"), item[0])))


def _environment(names: Names) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = lambda text: json.dumps(text, ensure_ascii=False)
    environment.globals["imports"] = lambda always, of_parts: import_lines(
        [*always, *(line for lines in of_parts for line in lines)], own=names.module
    )
    return environment


def import_lines(lines: Iterable[str], *, own: str) -> str:
    """Return imports as isort would write them: in groups, sorted, each module once.

    Args:
        lines: `import x` or `from x import y`, in any order and as often as they like.
        own: the plugin's module, which comes last.

    >>> print(import_lines(["from a import y", "import json", "from a import X"], own="b"))
    import json
    <BLANKLINE>
    from a import X, y
    """
    names: dict[str, set[str]] = {}
    groups: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    for line in lines:
        statement, _, name = line.partition(" import ")
        groups[_group(_root(line), own)].add(statement)
        names.setdefault(statement, set()).update([name] if name else [])
    written = (
        "\n".join(_written(statement, sorted(names[statement], key=_case)) for statement in found)
        for found in (sorted(group, key=_plain_first) for group in groups.values())
        if found
    )
    return "\n\n".join(written)


def _root(line: str) -> str:
    """Return the package that an import is of."""
    return line.split()[1].partition(".")[0]


def _group(package: str, own: str) -> int:
    if package == own:
        return 2
    return 0 if package in sys.stdlib_module_names else 1


def _plain_first(statement: str) -> tuple[bool, str]:
    """Sort `import x` before `from x`, and both by the module."""
    return statement.startswith("from "), statement.split()[1]


def _case(name: str) -> tuple[int, str]:
    """Sort CONSTANTS before Classes before functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _written(statement: str, names: Sequence[str]) -> str:
    if not names:
        return statement
    line = f"{statement} import {', '.join(names)}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"{statement} import (", *(f"    {name}," for name in names), ")"])
