"""One HTML file of a preview: it needs no network, and nothing in the data can act in it.

In comes a `Preview`; out goes the text of a page that a reader opens from disk. The template, style,
script and words lie beside this module. Totals, findings and rows are plain HTML; the script adds
what needs one: search, a token's id, the choice of language and colours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lmkit.previewing import Preview, Shown
from lmkit.previewing.pieces import CHUNK, HERE, by_level, document
from lmkit.previewing.visible import NAMES


def page(preview: Preview) -> str:
    """The preview as one HTML document."""
    return document(
        HERE / "page.html",
        styles=[HERE / "page.css"],
        scripts=[HERE / "choices.js", HERE / "page.js"],
        words=[HERE / "page.words.json"],
        data={
            "rows": [_packed(shown) for shown in preview.shown],
            "names": NAMES,
            "chunk": CHUNK,
            "learned": "hidden" if preview.family == "masked" else "learned",
        },
        preview=preview,
        levels=by_level(preview.findings),
        places={shown.where: f"row-{i}" for i, shown in reversed(list(enumerate(preview.shown)))},
        about=[(name, _one_line(fact)) for name, fact in preview.about.items()],
    )


def _one_line(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {_one_line(part)}" for name, part in fact.items())
    if isinstance(fact, str):
        return fact
    if isinstance(fact, Iterable):
        return ", ".join(_one_line(part) for part in fact)
    return json.dumps(fact)


def _packed(shown: Shown) -> dict[str, Any]:
    """A row's tokens for the script: kinds are one letter a token, a capital where it is control."""
    return {
        "where": shown.where,
        "tokens": [
            {
                "ids": [token.id for token in tokens],
                "texts": [token.text for token in tokens],
                "kinds": "".join(
                    token.kind[0].upper() if token.control else token.kind[0] for token in tokens
                ),
            }
            for tokens in (shown.tokens, shown.target)
            if tokens
        ],
    }
