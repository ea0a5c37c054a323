"""The bytes that one token writes: a token may hold a part of a character only, which no text can show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lmkit.tokenizing import Tokenizer
from lmkit.tokenizing.tokenizer_json import stages

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Return what a token stands for in the middle of a text, as UTF-8; b"" for an id without a token.

    A control token's are those of its name. The space that some tokenizers put before a word is part
    of it.

    >>> from lmkit.testing import toy_tokenizer
    >>> toy = toy_tokenizer()
    >>> token_bytes(toy, toy.encode("a")[0])
    b'a'
    """
    kinds, control = _decoding(tokenizer.definition)
    token = tokenizer.id_to_token(token_id)
    if token == f"<{token_id}>" and tokenizer.token_to_id(token) != token_id:
        return b""
    if token_id in control or tokenizer.is_control(token_id):
        return token.encode()
    byte = _BYTE.fullmatch(token)
    if byte is not None and "ByteFallback" in kinds:
        return bytes([int(byte[1], 16)])
    if "ByteLevel" in kinds:
        known = _byte_of()
        if all(char in known for char in token):
            return bytes(known[char] for char in token)
        return token.encode()
    for word, text in kinds.items():
        if text:
            token = token.removeprefix(word) if word == text else token.replace(word, text)
    return token.encode()


@lru_cache(maxsize=8)
def _decoding(definition: str) -> tuple[Mapping[str, str], frozenset[int]]:
    """Return what a decoder does, by name, or by what it replaces; and the ids that it leaves alone."""
    data: dict[str, Any] = json.loads(definition)
    found: dict[str, str] = {}
    for stage in stages(data.get("decoder"), "decoders"):
        kind = stage["type"]
        found[kind] = ""
        if kind == "Metaspace":
            found[stage.get("replacement", "▁")] = " "
        elif kind == "Replace" and "String" in stage.get("pattern", {}):
            found[stage["pattern"]["String"]] = stage["content"]
        elif kind == "WordPiece":
            found[stage["prefix"]] = stage["prefix"]
    added = frozenset(token["id"] for token in data.get("added_tokens", ()))
    return found, added


@lru_cache(maxsize=1)
def _byte_of() -> Mapping[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Source: `bytes_to_unicode` of GPT-2's encoder.py: what can be printed stands for itself, the others
    follow from U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {
        **{chr(byte): byte for byte in plain},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }
