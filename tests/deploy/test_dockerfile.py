"""The image is small and safe as it is written, and its steps serve a bundle where nothing else is."""

import fnmatch
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from runtime.toybundle import RECORD, write_bundle

from .steps import Machine, last_stage, steps, value

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text("utf-8")
STAGE = last_stage(DOCKERFILE)
KEY = "a-key-of-this-test"


def test_a_linter_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")

    done = subprocess.run(
        [hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


class TestTheImage:
    def test_runs_as_nobody_in_particular(self):
        user, group = value(STAGE, "USER").split(":")

        assert int(user) > 1000
        assert int(group) > 1000

    def test_installs_nothing_and_copies_only_the_environment_and_the_bundle(self):
        assert [step.rest for step in STAGE if step.word in ("COPY", "RUN", "ADD")] == [
            "--from=build /opt/lmkit /opt/lmkit",
            "--from=build /srv/bundle /srv/bundle",
        ]

    def test_is_built_with_the_versions_that_are_known_to_work(self):
        [install] = [step.rest for step in steps(DOCKERFILE) if " install " in step.rest]

        assert "-c constraints.txt" in install
        assert '".[serve]"' in install

    def test_is_sent_all_that_is_copied_into_it(self):
        lines = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
        allowed = [line[1:] for line in lines if line.startswith("!")]
        copied = [
            word
            for step in steps(DOCKERFILE)
            if step.word == "COPY" and "--from" not in step.rest
            for word in step.rest.split()[:-1]
        ]

        assert "*" in lines
        assert set(copied) - {"${BUNDLE}"} == set(allowed) - {"bundles"}
        assert all((ROOT / name).exists() for name in set(allowed) - {"bundles"})


class TestCompose:
    SERVICE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))["services"]["lmkit"]

    def test_nothing_can_be_written_or_gained(self):
        assert self.SERVICE["read_only"] is True
        assert self.SERVICE["cap_drop"] == ["ALL"]
        assert self.SERVICE["security_opt"] == ["no-new-privileges:true"]

    def test_this_machine_alone_reaches_it(self):
        assert all(port.startswith("127.0.0.1:") for port in self.SERVICE["ports"])

    def test_its_paths_are_there(self):
        context = (FOLDER / self.SERVICE["build"]["context"]).resolve()

        assert context == ROOT
        assert (context / self.SERVICE["build"]["dockerfile"]).is_file()
        assert set(self.SERVICE["build"]["args"]) == {"BUNDLE"}

    def test_it_waits_longer_than_answers_may_take_to_end(self):
        from lmkit.cli.serve import serve

        [drain] = [option.default for option in serve.params if option.name == "drain"]

        assert int(self.SERVICE["stop_grace_period"].rstrip("s")) > drain

    def test_what_follows_the_images_name_is_known_to_serve(self):
        from lmkit.cli.serve import serve

        known = {name for option in serve.params for name in (*option.opts, *option.secondary_opts)}
        words = [*json.loads(value(STAGE, "ENTRYPOINT")), *self.SERVICE["command"]]

        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.slow
def test_its_steps_serve_a_bundle_and_nothing_but_its_packages_is_there(tmp_path):
    context, root = tmp_path / "context", tmp_path / "root"
    context.mkdir()
    root.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "lmkit", "plugins"):
        (context / name).symlink_to(ROOT / name)
    write_bundle(context / "bundles" / "toy", says="네.")
    machine = Machine(root, context, {"BUNDLE": "bundles/toy"})

    machine.build(DOCKERFILE)

    packages = machine.at("/opt/lmkit/lib") / f"python3.{sys.version_info.minor}" / "site-packages"
    there = [path.name for path in packages.iterdir()]
    for name in ("torch*", "transformers*", "onnx", "pip", "pip-*"):
        assert not fnmatch.filter(there, name)
    assert sorted(path.name for path in root.iterdir()) == ["opt", "srv"]
    port = _free_port()
    command = machine.command(value(STAGE, "ENTRYPOINT"))
    command[command.index("8000")] = str(port)
    probe = machine.command(value(STAGE, "HEALTHCHECK").partition("CMD ")[2])
    probe[-1] = probe[-1].replace("8000", str(port))
    before = _files(root)
    serving = subprocess.Popen(
        [machine.at("/opt/lmkit/bin") / command[0], *command[1:]],
        env={**machine.environ, "LMKIT_API_KEY": KEY, "HOME": "/"},
        cwd="/",
        stderr=subprocess.PIPE,
    )
    try:
        _wait_until(lambda: _healthy(probe, machine), serving)
        asked = Request(
            f"http://127.0.0.1:{port}/v1/tasks/toy",
            data=json.dumps(RECORD).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        with urlopen(asked, timeout=30) as reply:
            assert json.load(reply)["value"] == "네."
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(60) == 0
        assert not _healthy(probe, machine)
        assert _files(root) == before  # so the image can be read-only
    finally:
        serving.kill()
        serving.communicate()


def _files(root):
    """Return every path below a folder, with what tells that it was written."""
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_dir()
    }


def _healthy(probe, machine):
    python = machine.at("/opt/lmkit/bin") / probe[0]
    return subprocess.run([python, *probe[1:]], capture_output=True, check=False).returncode == 0


def _wait_until(true, serving, seconds=120):
    ends = time.monotonic() + seconds
    while not true():
        assert serving.poll() is None, serving.stderr.read().decode()
        assert time.monotonic() < ends
        time.sleep(0.2)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
