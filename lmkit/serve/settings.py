"""What a server is told when it starts: who may ask, how much, for how long, and what is logged.

The settings are one value, read by the routes and by what stands before them. What the models may
hold at once (rows, waiting requests, memory) is the engine's to say: see `lmkit.batching.Limits`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import LmkitError
from lmkit.validators import (
    FLAG,
    POSITIVE,
    TEXT,
    TEXTS,
    Check,
    as_float,
    as_texts,
    at_least,
    optional,
)

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
MIB = 1 << 20
# A byte that cannot stand in a header, or that no two programs write alike, is in no key.
_KEY = re.compile(r"[\x21-\x7e]{1,512}")


def _is_key(given: Any) -> bool:
    return isinstance(given, str) and _KEY.fullmatch(given) is not None


def _count(given: Any) -> str:
    return f"{len(given)} texts, one of which is no key" if isinstance(given, tuple) else "no key"


@attrs.frozen(kw_only=True)
class Settings:
    """How one server behaves, whatever models it has.

    Attributes:
        api_keys: who sends one of these as `Authorization: Bearer KEY` may ask; with none, anybody
            who can reach the server. They are visible ASCII, and are not in the `repr`.
        hosts: the names under which a browser may know a server without keys, so that no foreign
            page reaches it by a name of its own (DNS rebinding). None allows any. With a key the
            key protects, and any name will do.
        cors_origins: web pages of other origins that may ask, such as `https://example.org`, or
            `*` for any. None may if this is empty.
        max_body_bytes: the most bytes of a request's body.
        body_timeout: seconds in which a request's body has to be there.
        max_tokens: the most new tokens that a request may ask for; None leaves it to the model's
            context.
        max_choices: the most answers that one request may ask for, prompts times `n`.
        timeout: seconds that a request may take, waiting included.
        log_prompts: write what was asked and answered into the log; otherwise no text of either is
            ever logged, not even in an error.
        playground: whether `GET /` shows the playground.
        title: what the playground and the OpenAPI document call this server.
    """

    api_keys: tuple[str, ...] = attrs.field(
        default=(),
        converter=as_texts,
        repr=lambda keys: f"<{len(keys)}>",
        validator=Check(
            "keys of 1 to 512 visible ASCII characters",
            lambda keys: isinstance(keys, tuple) and all(map(_is_key, keys)),
            _count,
        ),
    )
    hosts: tuple[str, ...] | None = attrs.field(
        default=LOOPBACK_HOSTS,
        converter=attrs.converters.optional(as_texts),
        validator=optional(TEXTS),
    )
    cors_origins: tuple[str, ...] = attrs.field(default=(), converter=as_texts, validator=TEXTS)
    max_body_bytes: int = attrs.field(default=MIB, validator=at_least(1))
    body_timeout: float = attrs.field(default=30.0, converter=as_float, validator=POSITIVE)
    max_tokens: int | None = attrs.field(default=None, validator=optional(at_least(1)))
    max_choices: int = attrs.field(default=32, validator=at_least(1))
    timeout: float = attrs.field(default=300.0, converter=as_float, validator=POSITIVE)
    log_prompts: bool = attrs.field(default=False, validator=FLAG)
    playground: bool = attrs.field(default=True, validator=FLAG)
    title: str = attrs.field(default="lmkit", validator=TEXT)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address: `localhost`, or a loopback IP.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def read_keys(path: str | Path) -> tuple[str, ...]:
    """Return the keys in a file: one a line; blank lines and those that begin with # are skipped.

    Raises:
        LmkitError: the file cannot be read, has no key, or has a line that is none.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise LmkitError(f"the key file '{path}' cannot be read: {reason}") from error
    keys = {n: line.strip() for n, line in enumerate(lines, start=1)}
    keys = {n: key for n, key in keys.items() if key and not key.startswith("#")}
    if not keys:
        raise LmkitError(f"the key file '{path}' has no key; write one a line")
    return check_keys(keys.values(), (f"{path}:{number}" for number in keys))


def check_keys(keys: Iterable[str], where: Iterable[str]) -> tuple[str, ...]:
    """Return keys as they are, if all of them can be sent in a header.

    Args:
        keys: the keys.
        where: where each of them comes from, for the message, which must not show a key.

    Raises:
        LmkitError: one of them cannot be sent.
    """
    checked = []
    for key, place in zip(keys, where, strict=True):
        if not _is_key(key):
            raise LmkitError(
                f"{place}: this is no key; expected 1 to 512 visible ASCII characters without "
                "spaces, such as 'openssl rand -hex 32' prints"
            )
        checked.append(key)
    return tuple(checked)
