"""Who may ask: whoever has a key, where there are keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from lmkit.serve.refusing import App, Receive, Scope, Send, header, refuse

# What tells nothing of the models: whether the server is there, and the empty page that asks for a key.
OPEN_PATHS = frozenset({"/", "/favicon.ico", "/health", "/ready"})
OPEN_FOLDERS = ("/playground/",)


class Keys:
    """The keys of a server.

    Only their digests are kept and compared, each in constant time and all of them, so how long a
    comparison takes tells neither how much of a key was right nor whose it was.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def __contains__(self, key: bytes) -> bool:
        digest = hashlib.sha256(key).digest()
        alike = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(alike)


def keyed(app: App, keys: Iterable[str]) -> App:
    """Return an application that asks for a key on the way to `app`.

    Args:
        app: what is protected, but for the paths that tell nothing.
        keys: the keys; a request is let in with `Authorization: Bearer` and one of them.
    """
    known = Keys(keys)

    async def ask_key(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]):
            await app(scope, receive, send)
            return
        given = header(scope, b"authorization")
        scheme, _, key = (given or b"").strip().partition(b" ")
        if scheme.lower() == b"bearer" and key.strip() in known:
            await app(scope, receive, send)
            return
        await refuse(
            scope,
            receive,
            send,
            status=401,
            message="this server wants a key: send it as 'Authorization: Bearer KEY'"
            if given is None
            else "this is not a key of this server",
            code="invalid_api_key",
            headers=[(b"www-authenticate", b"Bearer")],
        )

    return ask_key


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
