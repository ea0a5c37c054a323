"""What is said of `--engine ray` where there is no cluster; tests/cluster has one."""

import sys

import pytest
from runtime.toybundle import write_bundle

from lmkit.cli.main import run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "안녕?"}\n', "utf-8")
    return path


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["generate", "b", "--input", "f.jsonl", "--workers", "2"], "--workers goes with"),
        (["generate", "b", "--input", "f.jsonl", "--address", "auto"], "--address goes with"),
        (["serve", "b", "--replicas", "2"], "--replicas goes with"),
        (["serve", "b", "--max-replicas", "2"], "--max-replicas goes with"),
        (["serve", "b", "--address", "auto"], "--address goes with"),
        (
            ["serve", "b", "--engine", "ray", "--replicas", "4", "--max-replicas", "2"],
            "--max-replicas 2 is below --replicas 4",
        ),
        (["generate", "b", "--set", "prompt=x", "--engine", "ray"], "goes with --input FILE"),
        (["generate", "b", "--input", "-", "--engine", "ray"], "read more than once"),
        (["generate", "b", "--input", "f.jsonl", "--engine", "slurm"], "'local', 'ray'"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_is_opened(args, told, capsys):
    assert run(args) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["generate", "serve"])
def test_without_ray_the_extra_is_named(verb, bundle, source, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    args = [verb, str(bundle), "--engine", "ray"]

    code = run([*args, "--input", str(source)] if verb == "generate" else args)

    assert code == 1
    assert "pip install 'lmkit-tasks[ray]'" in capsys.readouterr().err


def test_without_a_key_a_server_for_other_machines_is_refused(bundle, capsys):
    code = run(["serve", str(bundle), "--engine", "ray", "--host", "0.0.0.0"])

    assert code == 2
    assert "so there must be a key" in capsys.readouterr().err
