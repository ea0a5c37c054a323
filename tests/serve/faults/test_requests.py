"""Requests that are wrong, enormous or hostile: each is told why, and the next one is answered as ever."""

import json
import threading
import time

import httpx
import pytest

from .served import Served, request

ASK = {"model": "toy", "prompt": "안녕", "max_tokens": 8, "temperature": 0}
PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/tasks/toy", "/v1/tasks/toy/prompt"]
DEEP = 100_000
SECRET = "xyzzy-비밀"


@pytest.fixture(scope="module")
def text(quick):
    """What the server answers to `ASK` before anything has happened to it."""
    return quick.post("/v1/completions", ASK).json()["choices"][0]["text"]


@pytest.fixture
def server(quick, text):
    """The server, which must answer after each test as it did before, and have failed at nothing."""
    yield quick
    assert quick.post("/v1/completions", ASK).json()["choices"][0]["text"] == text
    assert "Traceback" not in "\n".join(quick.log)


def send(server, path, body):
    headers = {"content-type": "application/json"}
    return httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=60)


def assert_told(answer, *statuses):
    """An error in OpenAI's shape, of the client's own making."""
    assert answer.status_code in (statuses or (400,)), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 10 < len(error["message"]) < 2000


class TestWhatIsNoJson:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"nonsense",
            b'{"prompt": "a",}',
            b"{'prompt': 'a'}",
            b'{"prompt": "a"} {"prompt": "b"}',
            b'{"prompt": "\xff\xfe"}',
            b'{"prompt": "\\ud800"}',
            b'{"prompt": "a\nb"}',
            '{"prompt": "a"}'.encode("utf-16"),
            b"\x00" * 1000,
            b"[" * DEEP + b"]" * DEEP,
            b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        ],
        ids=range(14),
    )
    def test_is_refused(self, server, path, body):
        assert_told(send(server, path, body))


class TestWhatIsNoRequest:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("body", [[], None, 1, "text", True, {}, {"": 1}, {"prompt": None}])
    def test_is_refused(self, server, path, body):
        assert_told(send(server, path, json.dumps(body)))

    @pytest.mark.parametrize("value", [True, {}, {"a": 1}, [1.5], [[[1]]], [None], ["a", 1]])
    def test_for_a_prompt_of_another_type_is_refused(self, server, value):
        assert_told(server.post("/v1/completions", {**ASK, "prompt": value}))
        assert_told(server.post("/v1/tasks/toy", {"prompt": value}))

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            "text",
            [1],
            [{}],
            [{"role": 1, "content": "a"}],
            [{"role": "robot", "content": "a"}],
            [{"role": "user", "content": 1}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            [{"role": "user", "content": "a", "more": 1}],
        ],
    )
    def test_for_messages_that_are_none_is_refused(self, server, messages):
        assert_told(server.post("/v1/chat/completions", {"model": "toy", "messages": messages}))

    @pytest.mark.parametrize(
        ("name", "raw"),
        [
            *(
                ("max_tokens", raw)
                for raw in ("-1", "0", "1.5", '"8"', "1e400", "true", "9" * 5000)
            ),
            *(("temperature", raw) for raw in ("-1", '"hot"', "1e400", "-1e400", "[]", "9" * 5000)),
            *(("top_p", raw) for raw in ("-0.1", "1.1", "1e400", "{}")),
            *(("n", raw) for raw in ("0", "-1", "1000000000", "9" * 5000, "1.5")),
            *(("seed", raw) for raw in ("1.5", '"a"', "1e400", "9" * 5000)),
            *(("stop", raw) for raw in ("1", "[1]", "{}", json.dumps(["a"] * 100_000))),
            *(("logit_bias", raw) for raw in ("1", '{"a": 1}', '{"1": "a"}', '{"999999999": 1}')),
            *(("prompt", raw) for raw in ("[-1]", "[99999999]", "[9999999999999999999999999]")),
            *(("stream", raw) for raw in ("1", '"yes"')),
            *(("logprobs", raw) for raw in ("-1", "1000", "true")),
            ("repetition_penalty", "1e-400"),
            ("num_beams", "1000000"),
            ("no_repeat_ngram_size", "-1"),
        ],
    )
    def test_for_a_number_that_means_nothing_is_refused(self, server, name, raw):
        body = json.dumps({**ASK, name: "HERE"}).replace('"HERE"', raw)

        assert_told(send(server, "/v1/completions", body))

    @pytest.mark.parametrize(
        "query", ["max_new_tokens=-1", "temperature=hot", "temprature=1", "seed="]
    )
    def test_for_an_option_that_means_nothing_is_refused(self, server, query):
        assert_told(server.post(f"/v1/tasks/toy?{query}", {"prompt": "a"}))

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/v1/nothing", 404),
            ("GET", "/v1/models/../../etc/passwd", 404),
            ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
            ("GET", "/playground/%2e%2e/%2e%2e/app.py", 404),
            ("GET", "/playground/../app.py", 404),
            ("GET", "/v1/models/" + "x" * 5000, 404),
            ("POST", "/v1/tasks/none", 404),
            ("PUT", "/v1/completions", 405),
            ("DELETE", "/v1/models/toy", 405),
        ],
    )
    def test_for_what_is_not_there_is_refused(self, server, method, path, status):
        with server.line(request(path, b"{}", "Connection: close", method=method)) as raw:
            read = b""
            while piece := raw.recv(65536):
                read += piece

        assert int(read.split()[1]) == status
        assert b'"error"' in read or b"/playground" in path.encode()


class TestHugePrompts:
    """The toy's context holds 64 tokens."""

    @pytest.mark.parametrize(
        "piece", ["a", "a b ", "안녕 ", " ", "\n", "\x00", "<|endoftext|>", "👩‍👩‍👧"]
    )
    def test_are_refused_by_their_opening(self, server, piece):
        prompt = (piece * 1_000_000)[:1_000_000]

        answer = server.post("/v1/tasks/toy", {"prompt": prompt})

        assert_told(answer)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert "tokens or more and the model's context holds 64" in answer.text

    def test_in_numbers_keep_nobody_waiting(self, server):
        ends = threading.Event()
        asked = {"messages": [{"role": "user", "content": "안" * 1_000_000}], "model": "toy"}
        body = json.dumps(asked).encode()

        def ask():
            while not ends.is_set():
                assert_told(send(server, "/v1/chat/completions", body))

        asks = [threading.Thread(target=ask) for _ in range(2)]
        for one in asks:
            one.start()
        waits = []
        for _ in range(10):
            began = time.monotonic()
            assert server.post("/v1/completions", ASK).status_code == 200
            waits.append(time.monotonic() - began)
        ends.set()
        for one in asks:
            one.join()

        assert sorted(waits)[len(waits) // 2] < 1

    def test_of_ids_are_refused(self, server):
        assert_told(server.post("/v1/completions", {**ASK, "prompt": [5] * 1_000_000}))

    @pytest.mark.parametrize("item", ["a", {}, [], [5], ["a"], None, 1.5])
    def test_of_a_hundred_thousand_parts_are_refused_by_the_first_mistake(self, server, item):
        answer = server.post("/v1/completions", {**ASK, "prompt": [item] * 100_000})

        assert_told(answer)
        assert "'prompt" in answer.json()["error"]["message"]

    def test_of_more_texts_than_are_taken_say_how_many_are(self, server):
        answer = server.post("/v1/completions", {**ASK, "prompt": ["a"] * 65})

        assert_told(answer)
        assert "at most 64 items" in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "prompt"

    @pytest.mark.parametrize("message", [{}, "a", {"role": "user", "content": [{}] * 10}])
    def test_of_as_many_wrong_messages_are_refused_by_the_first(self, server, message):
        messages = [message] * 100_000
        answer = server.post("/v1/chat/completions", {"model": "toy", "messages": messages})

        assert_told(answer)
        assert "'messages[0]" in answer.json()["error"]["message"]

    def test_of_as_many_unknown_fields_are_refused_by_the_first(self, server):
        assert_told(server.post("/v1/completions", {**ASK} | {f"f{n}": n for n in range(100_000)}))


def test_a_body_of_the_size_that_was_allowed_is_read_and_a_larger_one_refused(bundle):
    flags = ("--port", 0, "--json", "--max-body", "65MiB")
    with Served("-m", "lmkit", "serve", bundle, *flags) as server:
        fits = server.post("/v1/completions", {**ASK, "prompt": "a" * ((65 << 20) - 1000)})
        larger = server.post("/v1/completions", {**ASK, "prompt": "a" * (65 << 20)})

    assert fits.json()["error"]["code"] == "context_length_exceeded"
    assert larger.json()["error"]["code"] == "body_too_large"


def test_a_control_token_in_a_prompt_is_text(server):
    shown = server.post("/v1/tasks/toy/prompt", {"prompt": "<|endoftext|><s>[PAD]"}).json()

    assert not any(token["control"] and not token["trusted"] for token in shown["tokens"])


def test_no_text_of_anybody_is_in_the_log(bundle):
    """Neither of who is answered nor of who is refused, for whatever reason."""
    flags = ("--port", 0, "--json", "--log-format", "json", "--max-body", "100KB")
    with Served("-m", "lmkit", "serve", bundle, *flags) as server:
        for path in PATHS:
            server.post(path, {"prompt": SECRET})
            server.post(path, {"prompt": SECRET * 100})
            server.post(path, {"prompt": SECRET * 10_000})
            server.post(path, {"model": SECRET, "prompt": SECRET})
            server.post(path, {"model": "toy", "messages": [{"role": SECRET, "content": SECRET}]})
            server.post(path, {SECRET: SECRET})
            send(server, path, f'{{"prompt": "{SECRET}'.encode())
            httpx.post(f"{server.url}{path}", content=SECRET.encode(), timeout=60)
        server.post("/v1/completions", {**ASK, "prompt": SECRET, "stream": True})
        server.kill()
        assert server.ended()[0] == 0
        server.process.communicate()
        log = "\n".join(server.log)

    assert len(server.lines()) > 30
    for part in (SECRET, "xyzzy", "비밀", json.dumps("비밀")[1:-1]):
        assert part not in log


def test_what_was_asked_and_answered_is_in_the_log_where_that_is_wanted(serving):
    server = serving("--log-prompts", step_s=0)
    answer = server.post("/v1/completions", {**ASK, "prompt": SECRET})
    line = server.logged("/v1/completions")

    assert json.loads(line["request"])["prompt"] == SECRET
    assert json.loads(line["answer"]) == answer.json()


def test_a_bug_of_the_servers_own_is_told_to_nobody_but_its_place_to_the_log(serving):
    server = serving(step_s=0, FAILS=SECRET)
    for path in ("/v1/completions", "/v1/tasks/toy"):
        asked = {"prompt": SECRET} if "tasks" in path else {**ASK, "prompt": SECRET}
        answer = server.post(path, asked)
        line = server.logged(path)

        assert_told(answer, 500)
        assert answer.json()["error"]["code"] == "internal_error"
        assert SECRET not in answer.text
        assert line["status"] == 500
        assert line["id"] == answer.headers["x-request-id"]
        assert server.post("/v1/completions", ASK).status_code == 200
    log = "\n".join(server.log)

    assert "RuntimeError" in log
    assert "in prepare_badly" in log
    assert "xyzzy" not in log
