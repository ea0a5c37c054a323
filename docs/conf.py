"""How the site is built: `tox -e docs`, or `sphinx-build -W docs build/docs`.

Docstrings are written with Markdown's single backticks and with indented examples; `_as_rst` makes of
them what Sphinx reads. Nothing here needs torch: lmkit imports it inside the functions that use it.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

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
_WORDS = re.compile(r"^(>>>|\.\. |[A-Z]\w+:$)")


def _as_rst(
    app: Any, what: str, name: str, documented: Any, options: Any, lines: list[str]
) -> None:
    """Rewrite a docstring's lines in place, before Google's sections are read."""
    text = "\n".join(lines)
    text = _CODE.sub(_linked, text)
    lines[:] = _blocks(text.split("\n"))


def _linked(match: re.Match[str]) -> str:
    name = match.group(1)
    return f":py:obj:`~lmkit.{name}`" if name in _LINKS else f"``{name}``"


def _blocks(lines: list[str]) -> list[str]:
    """Return lines in which what is indented under plain text is a block of code."""
    found: list[str] = []
    inside = section = False
    for place, line in enumerate(lines):
        bare = line.strip()
        depth = len(line) - len(line.lstrip())
        if bare and depth == 0:
            inside, section = False, bool(_WORDS.match(bare)) and bare.endswith(":")
        opens = bare and depth >= 4 and not section and not inside
        if opens and (place == 0 or not lines[place - 1].strip()):
            language = "python" if bare.startswith(("@", "def ", "from ")) else "text"
            found += [f".. code-block:: {language}", ""]
            inside = True
        found.append(line)
    return found


_LINKS = frozenset({*lmkit.__all__} - {"lora", "prompt_tuning", "keytoken_weighted"})


def setup(app: Any) -> None:
    """Have docstrings rewritten before napoleon reads them."""
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
