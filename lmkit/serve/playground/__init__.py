"""The playground: one page at `/` where every task of a server can be tried.

It is a handful of files that a browser reads as they are, so there is nothing to build. The page asks
its own server and nobody else, and its security policy holds it to that. It holds no secret, so it
is served without a key; what it asks for then needs one.
"""

from __future__ import annotations

import hashlib
import html
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


def routes(title: str = "lmkit") -> list[Route]:
    """Return the routes of the page and its files, which are read once, here.

    Args:
        title: what the page calls the server.
    """
    return [Route(path, _serve(content, media)) for path, content, media in _pages(title)]


def _pages(title: str) -> Iterator[tuple[str, bytes, str]]:
    """Yield each path with its content and media type."""
    for file in files(__name__).iterdir():
        name = file.name
        media = KINDS.get(name[name.rfind(".") :])
        if media is not None:
            content = file.read_bytes()
            if name == "index.html":
                yield "/", content.replace(b"{{title}}", html.escape(title).encode()), media
            else:
                yield f"{FOLDER}/{name}", content, media


def _serve(content: bytes, media: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    async def serve(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    return serve
