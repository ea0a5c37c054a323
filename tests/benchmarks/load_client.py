"""Clients of a chat server, in a process of their own: they ask, note when bytes arrive, and count later.

    python tests/benchmarks/load_client.py --url http://127.0.0.1:8000 --clients 16 --seconds 10 --bodies FILE

Every client asks again as soon as its answer has ended (a closed loop), on a connection of its own, and all
leave when the time is over. While the clock runs a client does nothing but keep what arrived and when, so
that it takes little of the processor that it shares with the server; its share is part of the result.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import resource
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tokenizers

CALMING_S = 0.2  # a client waits so long behind an error, so that errors are no flood


@attrs.define(kw_only=True)
class Exchange:
    """One request: when it was sent, what came when, and whether the time was over first."""

    max_tokens: int
    begun: float
    arrived: list[tuple[float, bytes]] = attrs.field(factory=list)
    cut: bool = False
    leaves: bool = False  # hangs up as soon as something has come
    failure: str | None = None

    @property
    def answered(self) -> bool:
        """Return whether an answer, not an error, has at least begun."""
        return bool(self.arrived) and self.arrived[0][1][8:13] == b" 200 "


@attrs.frozen(kw_only=True)
class Answered:
    """What an exchange was: its outcome, and when each piece of text came."""

    begun: float
    outcome: str  # "ended", "cut", or what went wrong
    pieces: tuple[tuple[float, str], ...] = ()
    tokens: int | None = None  # of an answer that has ended

    @property
    def first_s(self) -> float | None:
        """Return the seconds until the first piece."""
        return self.pieces[0][0] - self.begun if self.pieces else None


class _Line(asyncio.Protocol):
    """A connection that notes what arrives and when, and nothing else."""

    def __init__(self, exchange: Exchange, request: bytes) -> None:
        self.exchange = exchange
        self.request = request
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.exchange.arrived.append((time.perf_counter(), data))
        if self.exchange.leaves:
            self.exchange.cut = True
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.exchange.failure = type(exc).__name__
        if not self.closed.done():
            self.closed.set_result(None)


async def exchanges(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    *,
    clients: int,
    seconds: float,
    ramp_s: float = 0.0,
    most: int | None = None,
    leaves: int = 0,
) -> list[Exchange]:
    """Let clients ask for so many seconds; return every request that was sent.

    Args:
        url: of the server; `/v1/chat/completions` is asked.
        bodies: what is asked, in turn; every one must stream.
        clients: how many ask at a time.
        seconds: when all leave.
        ramp_s: the clients join spread over so many seconds.
        most: end sooner, behind so many requests.
        leaves: every so-many-th request is given up as soon as its answer begins; none is if 0.
    """
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    turn = itertools.cycle([(_request(parts.netloc, body), _max_tokens(body)) for body in bodies])
    loop, done = asyncio.get_running_loop(), []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(ramp_s * number / clients)
        while most is None or len(done) < most:
            request, max_tokens = next(turn)
            exchange = Exchange(max_tokens=max_tokens, begun=time.perf_counter())
            done.append(exchange)
            exchange.leaves = leaves > 0 and len(done) % leaves == 0
            try:
                transport, line = await loop.create_connection(
                    lambda: _Line(exchange, request),  # noqa: B023 (called at once)
                    host,
                    port,
                )
            except OSError as error:
                exchange.failure = type(error).__name__
            else:
                try:
                    async with asyncio.timeout(max(end - time.perf_counter(), 0)):
                        await line.closed
                except TimeoutError:
                    exchange.cut = True
                    transport.abort()
                    return
            if not exchange.answered:
                await asyncio.sleep(CALMING_S)
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(client(number) for number in range(clients)))
    return done


def _request(netloc: str, body: Mapping[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _max_tokens(body: Mapping[str, Any]) -> int:
    return int(body["max_tokens"])


def read(exchange: Exchange) -> Answered:
    """Read what arrived: the status, and the time of every piece of text."""
    begun, pieces = exchange.begun, []
    usage: int | None = None
    reason = None
    if exchange.failure is not None:
        return Answered(begun=begun, outcome=exchange.failure)
    events = _events(exchange.arrived)
    status = next(events, (begun, b""))[1].decode()
    if status != "200":
        outcome = f"status {status}" if status else "cut" if exchange.cut else "no answer"
        return Answered(begun=begun, outcome=outcome)
    for when, line in events:
        if line == b"[DONE]":
            break
        event = json.loads(line)
        if "error" in event:
            return Answered(begun=begun, outcome="error in the stream")
        if event.get("usage"):
            usage = event["usage"]["completion_tokens"]
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                pieces.append((when, text))
            reason = choice.get("finish_reason") or reason
    if reason is None:
        outcome = "cut" if exchange.cut else "ended too soon"
        return Answered(begun=begun, outcome=outcome, pieces=tuple(pieces))
    if usage is None:  # llama-cpp-python says nothing
        usage = exchange.max_tokens if reason == "length" else len(pieces)
    return Answered(begun=begun, outcome="ended", pieces=tuple(pieces), tokens=usage)


def _events(arrived: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield the status, and then the data of each event with the time at which it was whole."""
    waiting, text, headed, chunked = b"", b"", False, False
    for when, data in arrived:
        waiting += data
        if not headed:
            head, found, rest = waiting.partition(b"\r\n\r\n")
            if not found:
                continue
            headed, waiting = True, rest
            chunked = b"transfer-encoding: chunked" in head.lower()
            yield when, head.split(b" ", 2)[1]
        if chunked:
            taken, waiting = _unchunk(waiting)
        else:
            taken, waiting = waiting, b""
        *whole, text = (text + taken).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in whole:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield when, b"\n".join(lines)


def _unchunk(data: bytes) -> tuple[bytes, bytes]:
    """Take the whole chunks off the front; return their content, and what is left.

    >>> _unchunk(b"3\\r\\nabc\\r\\n5\\r\\nab")
    (b'abc', b'5\\r\\nab')
    """
    content = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found or len(rest) < (n := int(size, 16)) + 2:
            return content, data
        content, data = content + rest[:n], rest[n + 2 :]


def quantile(seen: Sequence[float], unseen: Sequence[float], share: float) -> tuple[float, bool]:
    """Return the value below which this share lies, and whether it was seen: it may only be "more than".

    Who still waits when the time is over has waited at least so long: leaving them out would flatter a
    server whose clients queue. Source: Kaplan and Meier, "Nonparametric estimation from incomplete
    observations", 1958.

    Args:
        seen: seconds that were measured.
        unseen: seconds after which those who still waited were cut off.
        share: in (0, 1).

    >>> quantile([1.0, 2.0, 3.0], [], 0.5)
    (2.0, True)
    >>> quantile([1.0], [3.0, 4.0], 0.5)
    (4.0, False)
    """
    both = [(value, True) for value in seen] + [(value, False) for value in unseen]
    left = sorted(both, key=lambda one: (one[0], not one[1]))
    if not left:
        return math.nan, False
    beyond = 1.0
    for at, (value, known) in enumerate(left):
        if known:
            beyond *= 1 - 1 / (len(left) - at)
            if beyond <= 1 - share + 1e-9:
                return value, True
    return left[-1][0], False


def summary(
    answers: Sequence[Answered], *, count: Callable[[str], int], begin: float, end: float
) -> dict[str, Any]:
    """Return the figures of a run.

    A token counts where its piece of text came in `[begin, end)`. A piece has the tokens that the
    model's tokenizer makes of it (a Korean character may take several); those of an answer that has
    ended are scaled so that their sum is what its server says.

    Args:
        answers: all of the run's.
        count: text -> how many tokens it is, for the same model of every server.
        begin: when counting begins, behind the ramp; `time.perf_counter()` as all times are.
        end: when it ends.
    """
    ended = [answer for answer in answers if answer.outcome == "ended"]
    tokens, gaps = 0.0, []
    for answer in answers:
        counts = [count(text) for _, text in answer.pieces]
        scale = answer.tokens / sum(counts) if answer.tokens is not None and sum(counts) else 1.0
        whens = [when for when, _ in answer.pieces]
        inside = (n for when, n in zip(whens, counts, strict=True) if begin <= when < end)
        tokens += scale * sum(inside)
        gaps += [later - sooner for sooner, later in itertools.pairwise(whens)]
    first = [answer.first_s for answer in answers if answer.first_s is not None]
    waited = [end - one.begun for one in answers if one.outcome == "cut" and not one.pieces]
    wrong = Counter(one.outcome for one in answers if one.outcome not in ("ended", "cut"))
    return {
        "tokens_per_s": tokens / (end - begin),
        "tokens": tokens,
        "first_s": {f"p{share}": quantile(first, waited, share / 100) for share in (50, 99)},
        "gap_s": {f"p{share}": quantile(gaps, [], share / 100) for share in (50, 99)},
        "requests": len(answers),
        "ended": len(ended),
        "tokens_each": sum(one.tokens or 0 for one in ended) / len(ended) if ended else math.nan,
        "errors": dict(wrong),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask as said; print the figures as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ramp", type=float, default=1.0, help="seconds in which they join")
    parser.add_argument("--most", type=int, help="end behind so many requests")
    parser.add_argument("--leaves", type=int, default=0, help="every so-many-th hangs up early")
    parser.add_argument("--tokenizer", required=True, help="the model's tokenizer.json")
    parser.add_argument("--bodies", type=Path, required=True, help="JSON: what is asked, in turn")
    options = parser.parse_args(arguments)
    bodies = json.loads(options.bodies.read_text("utf-8"))
    begun = time.perf_counter()
    cpu_s = time.process_time()
    done = asyncio.run(
        exchanges(
            options.url,
            bodies,
            clients=options.clients,
            seconds=options.seconds,
            ramp_s=options.ramp,
            most=options.most,
            leaves=options.leaves,
        )
    )
    end = time.perf_counter()
    cpu_s = time.process_time() - cpu_s
    tokenizer = tokenizers.Tokenizer.from_file(options.tokenizer)
    figures = summary(
        [read(one) for one in done],
        count=lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
        begin=begun + options.ramp,
        end=end,
    )
    figures["client_cpu"] = cpu_s / (end - begun)
    figures["client_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
