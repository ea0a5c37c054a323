"""What lmkit's HTML pages are made of: one file each, which needs no network and runs only its script.

A page is a jinja template; its style, script and words lie beside it. In come values, of which every
word is text and not markup; out goes the document. The preview's page and a run's report are made
here, and `pieces.html` has what both of them show.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import attrs
import jinja2
from markupsafe import Markup, escape

from lmkit.previewing import LEVELS, Finding, Histogram, Lengths, Token
from lmkit.previewing.visible import parts

HERE = Path(__file__).parent

CHUNK = 500
"""How many tokens the script draws at once, where they come into sight."""

WIDTH, HEIGHT = 320, 96
"""The size of a histogram's bars, in the units of its drawing."""


def document(
    template: Path,
    *,
    styles: Sequence[Path],
    scripts: Sequence[Path],
    words: Sequence[Path],
    data: dict[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """One HTML document.

    Its content security policy allows nothing but the style and script in it, each by its hash.

    Args:
        template: the page's own.
        styles: what it looks like.
        scripts: what runs in it.
        words: JSON files of what it says in each language, by a short name for each phrase.
        data: what the scripts are given, beside the words.
        filters: the page's own, beside those of all pages.
        values: what the template shows.
    """
    style = "".join(_read(file) for file in styles)
    script = "".join(_read(file) for file in scripts)
    said: dict[str, dict[str, str]] = {}
    for file in words:
        for language, phrases in json.loads(_read(file)).items():
            said.setdefault(language, {}).update(phrases)
    environment = _environment(template.parent)
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(
        words=said,
        data={**data, "words": said},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        **values,
    )


def by_level(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """The findings of each level, errors first."""
    return [
        (level, [finding for finding in findings if finding.level == level]) for level in LEVELS
    ]


@cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(list(dict.fromkeys([folder, HERE]))),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "visible": _visible,
        "plain": _plain,
        "basename": _basename,
        "number": "{:,}".format,
        "share": _share,
        "chunks": _chunks,
        "bars": _bars,
        "at": _at,
    }
    return environment


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_sha256(style)}'",
            f"script-src '{_sha256(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


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


def _basename(where: str) -> str:
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
