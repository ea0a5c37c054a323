"""How the site is built: `tox -e docs`, or `sphinx-build -W docs build/docs`.

Docstrings are written with Markdown's single backticks and with indented examples; `_as_rst` makes of
them what Sphinx reads. Nothing here needs torch: lmkit imports it inside the functions that use it.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyObject

import lmkit

project = "lmkit"
author = "the lmkit founders"
project_copyright = f"2026, {author}"
version = release = lmkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # they would turn --flags into dashes
nitpicky = False

html_theme = "furo"
html_title = "lmkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
maximum_signature_line_length = 72
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_])")
_SECTION = re.compile(r"[A-Z]\w+:")


def _as_rst(
    app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Rewrite a docstring's lines in place, before Google's sections are read."""
    lines[:] = _blocks(lines)
    if what in ("property", "attribute"):
        # Napoleon takes the words before a colon in the first line for a type: let it be a comment.
        lines[:0] = ["..", ""]


def _linked(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in _LINKS:
        return f":py:obj:`~lmkit.{name}`"
    body = name.strip(" ")
    before, after = name.split(body)  # a literal may not begin or end with a space
    return f"``{'␣' * len(before)}{body}{'␣' * len(after)}``"


def _blocks(lines: list[str]) -> list[str]:
    """Return lines in which what is indented under plain text is a block of code."""
    found: list[str] = []
    inside = section = False
    for place, line in enumerate(lines):
        bare = line.strip()
        depth = len(line) - len(line.lstrip())
        if bare and depth == 0:
            inside, section = False, bool(_SECTION.fullmatch(bare))
        opens = bare and depth >= 4 and not section and not inside
        if opens and (place == 0 or not lines[place - 1].strip()):
            language = "python" if bare.startswith(("@", "def ", "from ")) else "text"
            found += [f".. code-block:: {language}", ""]
            inside = True
        found.append(line if inside else _CODE.sub(_linked, line))
    return found


_LINKS = frozenset({*lmkit.__all__} - {"lora", "prompt_tuning", "keytoken_weighted"})


def _signature(app: Any, what: str, name: str, *shown: Any) -> tuple[str, str] | None:
    """Write a default that attrs makes anew for each value as three dots."""
    _, _, arguments, result = shown
    return (arguments.replace("= NOTHING", "= ..."), result) if arguments else None


def _with_dashes(app: Any, doctree: Any, *args: Any) -> None:
    """Set a dash between a field's name and what is said of it, and a result's colon as it was."""
    for text in list(doctree.findall(nodes.Text)):
        if " -- " in text and not isinstance(text.parent, nodes.FixedTextElement | nodes.literal):
            text.parent.replace(
                text, nodes.Text(" – " if text == " -- " else text.replace(" -- ", ": "))
            )


def setup(app: Any) -> None:
    """Have docstrings rewritten before napoleon reads them."""
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-read", _with_dashes)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
