"""`lmkit serve`: what is refused before anything is loaded, and what is said when it is ready."""

import json
import os
import subprocess
import sys

import click
import httpx
import pytest
from runtime.toybundle import write_bundle
from serve.faults.served import Served

from lmkit.cli.serve import named, size

KEY = "the-key-of-this-test"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "small")


class TestRefused:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "myhost"])
    def test_an_address_that_others_reach_without_a_key(self, lmkit, bundle, host, monkeypatch):
        monkeypatch.delenv("LMKIT_API_KEY", raising=False)
        done = lmkit("serve", bundle, "--host", host)

        assert done.code == 2
        assert "--api-key-file" in done.err
        assert "LMKIT_API_KEY" in done.err

    @pytest.mark.parametrize(
        "flags",
        [
            ["--port", "65536"],
            ["--max-rows", "0"],
            ["--max-waiting", "-1"],
            ["--kv-memory", "lots"],
            ["--max-body", "0"],
            ["--timeout", "0"],
            ["--drain", "-1"],
            ["--threads", "0"],
            ["--log-format", "xml"],
        ],
    )
    def test_a_flag_that_means_nothing(self, lmkit, bundle, flags):
        assert lmkit("serve", bundle, *flags).code == 2

    @pytest.mark.parametrize("key", ["", "two words", "비밀번호"])
    def test_a_key_that_cannot_be_sent(self, lmkit, bundle, key):
        done = lmkit("serve", bundle, "--api-key", key)

        assert done.code == 1
        assert "--api-key: this is no key" in done.err
        assert not key or key not in done.err

    def test_a_key_file_that_is_not_there(self, lmkit, bundle, tmp_path):
        done = lmkit("serve", bundle, "--api-key-file", tmp_path / "gone")

        assert done.code == 1
        assert "gone' cannot be read" in done.err

    def test_nothing_to_serve(self, lmkit):
        assert lmkit("serve").code == 2

    def test_a_bundle_that_is_none(self, command, tmp_path):
        done = command("serve", tmp_path / "gone", "--port", "0")

        assert done.returncode == 1
        assert "gone" in done.stderr
        assert "Traceback" not in done.stderr

    def test_two_bundles_of_one_name(self, command, bundle):
        done = command("serve", f"a={bundle}", f"a={bundle}", "--port", "0")

        assert done.returncode == 1
        assert "'a'" in done.stderr

    def test_a_place_where_the_extra_is_not_installed(self, command, bundle):
        done = command("serve", bundle, absent=("uvicorn",))

        assert done.returncode == 1
        assert "pip install 'lmkit-tasks[serve]'" in done.stderr


@pytest.mark.parametrize(
    ("written", "n_bytes"),
    [
        ("1", 1),
        ("512", 512),
        ("4MiB", 4 << 20),
        ("1 gib", 1 << 30),
        ("1.5K", 1500),
        ("0.5KiB", 512),
        ("2MB", 2_000_000),
    ],
)
def test_a_size_has_a_unit_or_none(written, n_bytes):
    assert size(None, None, written) == n_bytes


@pytest.mark.parametrize("written", ["", "0", "-1", "MiB", "1XB", "1e3", "1 2", "nan"])
def test_what_is_no_size_is_refused(written):
    with pytest.raises(click.BadParameter, match="is no size"):
        size(None, None, written)


def test_a_bundle_whose_folder_has_an_equals_sign_needs_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()

    assert named(["lr=3", "qa=lr=3"]) == [(None, "lr=3"), ("qa", "lr=3")]


def test_it_says_in_one_line_where_it_is_and_what_it_has(bundle):
    flags = ("--port", 0, "--json")
    with Served("-m", "lmkit", "serve", bundle, f"other={bundle}", *flags) as server:
        assert server.facts == {
            "url": f"http://127.0.0.1:{server.port}",
            "models": ["toy", "other"],
            "playground": f"http://127.0.0.1:{server.port}/",
            "api_key": False,
        }
        models = [model["id"] for model in server.get("/v1/models").json()["data"]]
        assert models == ["toy", "other"]
        page = server.get("/")
        assert "text/html" in page.headers["content-type"]
        server.kill()
        assert server.ended() == (0, "")


def test_people_are_told_the_same(bundle):
    run = [sys.executable, "-m", "lmkit", "serve", str(bundle), "--port", "0", "--no-playground"]
    environ = {**os.environ, "LMKIT_API_KEY": KEY}
    with subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        url = lines[0].split()[2]
        page = httpx.get(url)
        refused = httpx.get(f"{url}/v1/models")
        taken = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        process.terminate()
        rest, log = process.communicate(timeout=60)

    assert process.returncode == 0
    assert lines[0].startswith("serving at http://127.0.0.1:")
    assert lines[1].split() == ["model", "toy", f"({bundle})"]
    assert lines[2].split() == ["OpenAI", "base_url", f"{url}/v1"]
    assert lines[3].split()[:2] == ["key", "wanted,"]
    assert rest == ""
    assert f"INFO    opening {bundle}" in log
    assert KEY not in "".join([*lines, log])
    assert page.status_code == 404
    assert (refused.status_code, taken.status_code) == (401, 200)


def test_each_key_of_a_file_and_the_one_that_was_typed_will_do(bundle, tmp_path):
    file = tmp_path / "keys"
    file.write_text("# for the page\none-key\n\ntwo-key\n", "utf-8")
    flags = ("--port", 0, "--json", "--api-key", KEY, "--api-key-file", file, "--host", "0.0.0.0")
    with Served("-m", "lmkit", "serve", bundle, *flags) as server:
        statuses = [
            server.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
            for key in (KEY, "one-key", "two-key", "# for the page", "three")
        ]
        assert server.facts["api_key"] is True

    assert statuses == [200, 200, 200, 401, 401]


def test_limits_are_what_was_said(bundle):
    flags = ("--port", 0, "--json", "--max-body", "1KB", "--max-tokens", 3, "--cors-origin", "*")
    with Served("-m", "lmkit", "serve", bundle, *flags) as server:
        large = server.post("/v1/tasks/toy", {"prompt": "x" * 1000})
        long = server.post("/v1/tasks/toy?max_new_tokens=4", {"prompt": "x"})
        fits = server.post("/v1/tasks/toy?max_new_tokens=3", {"prompt": "x"})
        page = server.get("/v1/models", headers={"Origin": "https://a.example"})

    assert large.status_code == 413
    assert long.status_code == 400
    assert "3" in json.dumps(long.json())
    assert fits.json()["usage"]["completion_tokens"] <= 3
    assert page.headers["access-control-allow-origin"] == "*"
