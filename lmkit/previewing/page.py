"""One HTML file of a preview: it needs no network, and nothing in the data can act in it.

In comes a `Preview`; out goes the text of a page that a reader opens from disk. The template, style,
script and words lie beside this module. Totals, findings and rows are plain HTML; the script adds
what needs one: search, a token's id, the choice of language and colours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import attrs
import jinja2
from markupsafe import Markup, escape

from lmkit.previewing import LEVELS, Histogram, Lengths, Preview, Shown, Token
from lmkit.previewing.visible import NAMES, parts

CHUNK = 500
"""How many tokens the script draws at once, where they come into sight."""

WIDTH, HEIGHT = 320, 96
"""The size of a histogram's bars, in the units of its drawing."""


def page(preview: Preview) -> str:
    """The preview as one HTML document.

    Its content security policy allows nothing but the style and script in it, each by its hash.
    """
    style, script = _beside("page.css"), _beside("page.js")
    return _template().render(
        preview=preview,
        levels=[
            (level, [finding for finding in preview.findings if finding.level == level])
            for level in LEVELS
        ],
        places={shown.where: f"row-{i}" for i, shown in reversed(list(enumerate(preview.shown)))},
        about=[(name, _one_line(fact)) for name, fact in preview.about.items()],
        rows=[_packed(shown) for shown in preview.shown],
        words=json.loads(_beside("page.words.json")),
        names=NAMES,
        chunk=CHUNK,
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(
            [
                "default-src 'none'",
                f"style-src '{_sha256(style)}'",
                f"script-src '{_sha256(script)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "visible": _visible,
        "plain": _plain,
        "last": _last,
        "number": "{:,}".format,
        "share": _share,
        "chunks": _chunks,
        "bars": _bars,
        "at": _at,
    }
    return environment.from_string(_beside("page.html"))


@cache
def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


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


def _visible(text: str) -> Markup:
    """The text with invisible characters as names; a line still ends where it ends."""
    return Markup("").join(
        Markup('<i class="unseen" title="U+{:04X}">{}</i>{}').format(
            ord(piece), name, "\n" if piece == "\n" else ""
        )
        if name
        else escape(piece)
        for piece, name in parts(text)
    )


def _plain(text: str) -> str:
    return "".join(name or piece for piece, name in parts(text))


def _last(where: str) -> str:
    """A place without its folders."""
    return re.split(r"[/\\]", where)[-1]


def _share(part: float, whole: float) -> str:
    """A share in percent; a little is never shown as none, nor nearly all as all.

    Example:
        >>> _share(1, 3), _share(1, 9000), _share(8999, 9000), _share(0, 0)
        ('33%', '<1%', '>99%', '0%')
    """
    if not whole or not part:
        return "0%"
    percent = 100 * part / whole
    if percent < 1:
        return "<1%"
    return ">99%" if 99 < percent < 100 else f"{percent:.0f}%"


def _chunks(tokens: tuple[Token, ...]) -> Iterator[list[tuple[str, Markup]]]:
    """The tokens' text, some at a time, as runs of one kind."""
    for start in range(0, len(tokens), CHUNK):
        yield [
            (kind, _visible("".join(token.text for token in run)))
            for kind, run in groupby(tokens[start : start + CHUNK], _classes)
        ]


def _classes(token: Token) -> str:
    return f"{token.kind} control" if token.control else token.kind


@attrs.frozen(kw_only=True)
class _Bar:
    """One bar of a histogram, with what it counts."""

    x: float
    y: float
    width: float
    height: float
    first: int
    last: int
    count: int
    share: str


def _bars(histogram: Histogram) -> list[_Bar]:
    highest, total = max(histogram.counts), sum(histogram.counts)
    width = WIDTH / len(histogram.counts)
    return [
        _Bar(
            x=round(i * width, 2),
            y=round(HEIGHT - (height := _height(count, highest)), 2),
            width=round(width, 2),
            height=round(height, 2),
            first=first,
            last=max(first, after - 1),
            count=count,
            share=_share(count, total),
        )
        for i, (count, first, after) in enumerate(
            zip(histogram.counts, histogram.edges[:-1], histogram.edges[1:], strict=True)
        )
    ]


def _height(count: int, highest: int) -> float:
    """As high as the count is, and no lower than can be seen."""
    return max(2.0, HEIGHT * count / highest) if count else 0.0


def _at(length: int, lengths: Lengths) -> float:
    """Where a length stands along the bars, whose widths need not be even."""
    edges = lengths.histogram.edges
    width = WIDTH / (len(edges) - 1)
    for i, (first, after) in enumerate(pairwise(edges)):
        if length < after:
            return round(width * (i + max(0.0, (length - first) / (after - first))), 2)
    return float(WIDTH)
