"""The same bundle in other runtimes: their tokens are lmkit's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from exported import tiny_bundle, tiny_run

__all__ = ["tiny_bundle", "tiny_run"]

FOLDER = Path(__file__).parents[2] / "examples" / "deploy"


def run(*command):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, encoding="utf-8", check=False
    )


def with_other_tokens(bundle, folder):
    """Return a copy of a bundle whose golden answers are no model's."""
    shutil.copytree(bundle, folder)
    file = folder / "lmkit.json"
    manifest = json.loads(file.read_text("utf-8"))
    precision = manifest["precisions"][manifest["precision"]]
    precision["golden"] = [[1, 2, 3] for _ in precision["golden"]]
    file.write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.mark.slow
class TestGenai:
    SCRIPT = FOLDER / "genai.py"

    @pytest.fixture(autouse=True)
    def genai(self):
        pytest.importorskip("onnxruntime_genai")

    def test_writes_the_golden_tokens(self, tiny_bundle):
        done = run(sys.executable, self.SCRIPT, tiny_bundle)

        assert done.returncode == 0, done.stderr
        assert "golden prompts answered with lmkit's tokens" in done.stdout
        assert "OTHER" not in done.stdout

    def test_others_would_be_seen(self, tiny_bundle, tmp_path):
        done = run(sys.executable, self.SCRIPT, with_other_tokens(tiny_bundle, tmp_path / "other"))

        assert done.returncode == 1
        assert "OTHER" in done.stdout


@pytest.mark.slow
class TestTheWeb:
    @pytest.fixture(scope="class")
    def node(self, tmp_path_factory):
        """Return a function that runs the script where its packages are installed."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("node and npm are not installed")
        folder = tmp_path_factory.mktemp("web")
        for file in (FOLDER / "web").iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        installed = FOLDER / "web" / "node_modules"
        if installed.is_dir():
            (folder / "node_modules").symlink_to(installed)
        else:
            quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
            done = run("npm", "install", "--prefix", folder, *quiet)
            if done.returncode:
                pytest.skip(f"npm reaches no registry: {done.stderr.strip().splitlines()[-1]}")
        return lambda *args: run("node", folder / "golden.mjs", *args)

    def test_writes_the_golden_tokens(self, node, tiny_bundle):
        done = node(tiny_bundle)

        assert done.returncode == 0, done.stdout + done.stderr
        assert "golden prompts answered with lmkit's tokens" in done.stdout
        assert "OTHER" not in done.stdout

    def test_others_would_be_seen(self, node, tiny_bundle, tmp_path):
        done = node(with_other_tokens(tiny_bundle, tmp_path / "other"))

        assert done.returncode == 1
        assert "OTHER" in done.stdout

    def test_what_is_no_bundle_is_told(self, node, tmp_path):
        done = node(tmp_path)

        assert done.returncode == 1
        assert "lmkit.json" in done.stderr
