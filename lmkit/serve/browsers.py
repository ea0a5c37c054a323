"""What keeps a web page of somebody else's from asking a server that has no keys.

A browser on this machine reaches loopback, and shows pages of strangers. So a server without keys
answers only under names that mean this machine (a page whose own name is made to point here would ask
under that one), refuses a page's question that comes from another origin, and takes nothing but JSON,
which no page can send elsewhere without asking first.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmkit.serve.refusing import App, Receive, Scope, Send, header, refuse
from lmkit.serve.settings import is_loopback

READING = ("GET", "HEAD", "OPTIONS")


def only_json(app: App) -> App:
    """Return an application that passes on bodies of JSON and no others."""

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope) or _is_json(scope):
            await app(scope, receive, send)
            return
        await refuse(
            scope,
            receive,
            send,
            status=415,
            message="send the request's body as JSON, with 'Content-Type: application/json'",
            code="unsupported_media_type",
        )

    return check


def only_own_pages(app: App, *, hosts: Sequence[str], origins: Sequence[str]) -> App:
    """Return an application that answers under its own names, to its own pages, and to programs.

    Args:
        app: what is protected.
        hosts: the names it has, besides those that mean this machine anyway.
        origins: other pages that may ask, or `*` for any.
    """

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        named = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        if len(named) != 1 or not _is_own(named[0], hosts):
            message = (
                "this server has no key, so it answers under this machine's own names only, such "
                "as 'localhost'; ask under one, or start it with --api-key-file"
            )
        elif scope["method"] not in READING and not _may_ask(scope, named[0], origins):
            message = (
                "this server has no key, so it answers its own pages only; start it with "
                "--cors-origin and this page's origin, or with --api-key-file"
            )
        else:
            await app(scope, receive, send)
            return
        await refuse(
            scope, receive, send, status=403, message=message, code="forbidden", kind="access_error"
        )

    return check


def _has_body(scope: Scope) -> bool:
    length = header(scope, b"content-length")
    return header(scope, b"transfer-encoding") is not None or length not in (None, b"0")


def _is_json(scope: Scope) -> bool:
    kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    return kind == b"application/json"


def _is_own(host: str, hosts: Sequence[str]) -> bool:
    name = _without_port(host)
    return is_loopback(name) or name.strip("[]").lower() in hosts


def _without_port(host: str) -> str:
    """Return the name of a `Host` header.

    >>> _without_port("localhost:8000"), _without_port("[::1]:8000"), _without_port("[::1]")
    ('localhost', '[::1]', '[::1]')
    """
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (":" not in name or name.endswith("]")) else host


def _may_ask(scope: Scope, host: str, origins: Sequence[str]) -> bool:
    given = header(scope, b"origin")
    if given is None or "*" in origins:
        return True
    origin = given.decode("latin-1")
    return origin in origins or origin.partition("://")[2] == host
