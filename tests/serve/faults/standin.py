"""A server whose routes do what a test needs, behind all that stands before the real ones.

Run as a script with one JSON argument: settings, patience and drain. It prints its address.
"""

import asyncio
import json
import resource
import sys
import threading

from lmkit.serve.connections import Patience
from lmkit.serve.gate import Gate
from lmkit.serve.guarding import guarded
from lmkit.serve.logs import set_up
from lmkit.serve.running import listen, serve, url_of
from lmkit.serve.settings import Settings

TEXT = [(b"content-type", b"text/plain")]


async def answer(send, body, status=200):
    await send({"type": "http.response.start", "status": status, "headers": TEXT})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def routes(scope, receive, send):
    """`/echo` gives the body back, `/count` counts slowly, `/flood` never stops, `/fail` fails."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = (await receive()).get("body", b"")
    if scope["path"] == "/echo":
        await answer(send, body)
    elif scope["path"] == "/count":
        await send({"type": "http.response.start", "status": 200, "headers": TEXT})
        wanted = json.loads(body)
        for number in range(wanted["to"]):
            await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
            await asyncio.sleep(wanted["every"])
            if await _peek(receive) == "http.disconnect":
                return
        await send({"type": "http.response.body", "body": b"end\n", "more_body": False})
    elif scope["path"] == "/flood":
        await send({"type": "http.response.start", "status": 200, "headers": TEXT})
        while (await _peek(receive)) != "http.disconnect":
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    elif scope["path"] == "/thread":
        thread = threading.Thread(target=int, args=(body.decode(),))
        thread.start()
        thread.join()
        asyncio.get_running_loop().create_task(_fail(body.decode()))
        await asyncio.sleep(0)
        await answer(send, b"")
    elif scope["path"] == "/hang":
        await receive()
    elif scope["path"] == "/fail":
        raise RuntimeError(f"cannot answer {body.decode()}")
    else:
        await answer(send, scope["path"].encode())


async def _fail(text):
    raise RuntimeError(f"cannot do {text}")


async def _peek(receive):
    try:
        async with asyncio.timeout(0.001):
            return (await receive())["type"]
    except TimeoutError:
        return "nothing"


def main():
    asked = json.loads(sys.argv[1])
    if "files" in asked:
        resource.setrlimit(resource.RLIMIT_NOFILE, (asked["files"], asked["files"]))
    settings = Settings(**asked.get("settings", {}))
    set_up("json", log_prompts=settings.log_prompts)
    gate = Gate()
    bound = listen("127.0.0.1", 0)
    code = serve(
        guarded(routes, settings, gate=gate),
        bound,
        gate=gate,
        drain=asked.get("drain", 10),
        patience=Patience(**asked.get("patience", {})),
        on_ready=lambda: print(json.dumps({"url": url_of(bound)}), flush=True),
        on_stop=lambda: print("stopped", flush=True),
    )
    print("left", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
