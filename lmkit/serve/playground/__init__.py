"""The playground: one page at `/` where every task of a server can be tried.

It is a handful of files that a browser reads as they are, so there is nothing to build. The page asks
its own server and nobody else, and its security policy holds it to that. It holds no secret, so it
is served without a key; what it asks for then needs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = "/playground"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept by the browser, but asked about each time: a server of another version has another page.
    "Cache-Control": "no-cache",
}


def is_playground(path: str) -> bool:
    """Say whether a request's path is the page or one of its files, which need no key."""
    return path == "/" or path.startswith(f"{FOLDER}/")


def routes() -> list[Route]:
    """Return the routes of the page and its files, which are read once, here."""
    return [Route(path, _serve(*file)) for path, file in _pages()]


def _pages() -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Yield each path with its content and media type."""
    for file in files(__name__).iterdir():
        name = file.name
        media = KINDS.get(name[name.rfind(".") :])
        if media is not None:
            path = "/" if name == "index.html" else f"{FOLDER}/{name}"
            yield path, (file.read_bytes(), media)


def _serve(content: bytes, media: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    async def serve(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    return serve
