"""Make characters that nobody sees visible: zero-width joiners, direction marks, controls.

A row's text goes in; out go its parts, each either plain text or one invisible character with a
short name. A page and a terminal show the name, so that a mark can neither hide in data nor turn
the text around it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CONTROLS = [
    "NUL",
    "SOH",
    "STX",
    "ETX",
    "EOT",
    "ENQ",
    "ACK",
    "BEL",
    "BS",
    "HT",
    "LF",
    "VT",
    "FF",
    "CR",
    "SO",
    "SI",
    "DLE",
    "DC1",
    "DC2",
    "DC3",
    "DC4",
    "NAK",
    "SYN",
    "ETB",
    "CAN",
    "EM",
    "SUB",
    "ESC",
    "FS",
    "GS",
    "RS",
    "US",
]

NAMES = {
    **{chr(code): name for code, name in enumerate(_CONTROLS)},
    "\n": "↵",
    "\t": "⇥",
    "\x7f": "DEL",
    "\u00a0": "NBSP",
    "\u00ad": "SHY",
    "\u034f": "CGJ",
    "\u061c": "ALM",
    "\u115f": "HCF",
    "\u1160": "HJF",
    "\u180e": "MVS",
    "\u200b": "ZWSP",
    "\u200c": "ZWNJ",
    "\u200d": "ZWJ",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u2028": "LSEP",
    "\u2029": "PSEP",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u202f": "NNBSP",
    "\u2060": "WJ",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\u3164": "HF",
    "\ufeff": "BOM",
    "\uffa0": "HWHF",
}
"""Short names, most of them Unicode's own abbreviations (Source: Unicode's NameAliases.txt)."""

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_MAYBE_UNSEEN = re.compile(r"[^ -~가-힣]")


def parts(text: str) -> Iterator[tuple[str, str]]:
    r"""The text in order, as pairs of characters and a name; the name is empty for plain text.

    Example:
        >>> list(parts("가\u200d나"))
        [('가', ''), ('\u200d', 'ZWJ'), ('나', '')]
    """
    plain = 0
    for match in _MAYBE_UNSEEN.finditer(text):
        character = match.group()
        name = _name(character)
        if name:
            if plain < match.start():
                yield text[plain : match.start()], ""
            yield character, name
            plain = match.end()
    if plain < len(text):
        yield text[plain:], ""


def _name(character: str) -> str:
    if character in NAMES:
        return NAMES[character]
    unseen = unicodedata.category(character) in _UNSEEN
    return f"U+{ord(character):04X}" if unseen else ""
