"""A bundle in onnxruntime-web, in Node: its tokens are lmkit's."""

import shutil
import subprocess
from pathlib import Path

import pytest
from runtime.toybundle import write_bundle

from .other_tokens import with_other_tokens

WEB = Path(__file__).parents[2] / "examples" / "deploy" / "web"

pytestmark = pytest.mark.slow


def run(*command):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("web") / "bundle")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Return a function that runs the script where its packages are installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    for file in WEB.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    if (WEB / "node_modules").is_dir():
        (folder / "node_modules").symlink_to(WEB / "node_modules")
    else:
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
        done = run("npm", "install", "--prefix", folder, *quiet)
        if done.returncode:
            pytest.skip(f"npm reaches no registry: {done.stderr.strip()[-200:]}")
    return lambda *args: run("node", folder / "golden.mjs", *args)


def test_it_writes_the_golden_tokens(node, bundle):
    done = node(bundle)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 golden prompts answered with lmkit's tokens" in done.stdout


def test_others_would_be_seen(node, bundle, tmp_path):
    done = node(with_other_tokens(bundle, tmp_path / "other"))

    assert done.returncode == 1
    assert "OTHER" in done.stdout


def test_what_is_no_bundle_is_told(node, tmp_path):
    done = node(tmp_path)

    assert done.returncode == 1
    assert "lmkit.json" in done.stderr
