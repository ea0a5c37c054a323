"""An application behind what stands before it, asked in this process."""

import httpx

from lmkit.serve.guarding import guarded
from lmkit.serve.settings import Settings

from .loops import run


async def says_path(scope, receive, send):
    """Answer with the path and the body that arrived."""
    body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b" " + body})


def ask(method, path, *, app=says_path, base_url="http://127.0.0.1:8000", settings=None, **named):
    """Return the answer of an application that is guarded as some settings want it."""

    async def ask():
        transport = httpx.ASGITransport(guarded(app, Settings(**settings or {})))
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            return await client.request(method, path, **named)

    return run(ask())
