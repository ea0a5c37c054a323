"""How much all requests together may hold, and how long one may take, whatever its routes do."""

import asyncio

import httpx
import pytest

from lmkit.serve import limits
from lmkit.serve.limits import Bodies, bounded

from .asking import says_path
from .loops import run


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


class TestBodies:
    def test_of_all_requests_together_are_bounded(self):
        """One that comes when sixteen of full size are being answered is told to come again."""
        ends = asyncio.Event()
        inside = []

        async def waits(scope, receive, send):
            inside.append(scope)
            await ends.wait()
            await says_path(scope, receive, send)

        async def ask():
            bodies = Bodies(waits, max_bytes=10, seconds=10)
            async with client(bodies) as asks:
                full = [
                    asyncio.create_task(asks.post("/", content=b"x" * 10))
                    for _ in range(limits.FULL_BODIES)
                ]
                while len(inside) < limits.FULL_BODIES:
                    await asyncio.sleep(0)
                refused = await asks.post("/", content=b"x")
                ends.set()
                answers = await asyncio.gather(*full)
                after = await asks.post("/", content=b"x" * 10)
            return bodies.held, refused, [*answers, after]

        held, refused, answers = run(ask())

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert {answer.content for answer in answers} == {b"/ " + b"x" * 10}
        assert held == 0

    @pytest.mark.parametrize("n_bytes", [0, 1, 10])
    def test_within_the_bound_arrive_whole(self, n_bytes):
        async def ask():
            async with client(Bodies(says_path, max_bytes=10, seconds=10)) as asks:
                pieces = (bytes([65 + place]) for place in range(n_bytes))
                return await asks.post("/", content=_each(pieces))

        assert run(ask()).content == b"/ " + b"ABCDEFGHIJ"[:n_bytes]


class TestTime:
    @pytest.fixture(autouse=True)
    def _no_grace(self, monkeypatch):
        monkeypatch.setattr(limits, "GRACE_SECONDS", 0)

    def ask(self, app):
        async def ask():
            async with client(bounded(app, 0.05)) as asks:
                return await asks.post("/", content=b"")

        return run(ask())

    def test_that_is_over_before_the_first_word_is_told(self):
        async def hangs(scope, receive, send):
            await asyncio.sleep(60)

        answer = self.ask(hangs)

        assert answer.status_code == 504
        assert answer.json()["error"]["message"] == "there was no answer in 0.05 seconds"

    def test_that_is_over_in_the_middle_ends_the_answer(self):
        ended = []

        async def hangs(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        with pytest.raises(AssertionError):  # httpx's own: the answer is not whole
            self.ask(hangs)
        assert ended

    def test_an_error_of_the_routes_own_is_not_taken_for_it(self):
        async def fails(scope, receive, send):
            raise TimeoutError("a lock")

        with pytest.raises(TimeoutError, match="a lock"):
            self.ask(fails)


async def _each(pieces):
    for piece in pieces:
        yield piece
