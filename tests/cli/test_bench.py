import json
import os
import signal
import subprocess
import sys
import time

import pytest
from runtime.toybundle import write_bundle

QUICK = ("--prompt-tokens", "8", "--new-tokens", "4", "--rounds", "1", "--threads", "1")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bench") / "toy")


def test_bench_prints_ours_and_who_is_missing(lmkit, bundle):
    done = lmkit("bench", bundle, *QUICK, "--against", "llama.cpp,openvino")

    assert done.code == 0, done.err
    assert "8 + 4 tokens" in done.out
    assert "GB/s from memory" in done.out
    assert "llama.cpp skipped: it needs a .gguf file; give it as llama.cpp=PATH" in done.out
    assert "openvino skipped" in done.out


def test_bench_json_is_one_document(lmkit, bundle, tmp_path):
    done = lmkit("bench", bundle, *QUICK, "--json", "--plot", tmp_path / "plot.svg")
    data = json.loads(done.out)

    assert data["works"] == [
        {"prompt_tokens": 8, "new_tokens": 4, "rows": 1, "beams": 1, "repeats": False}
    ]
    assert data["results"][0]["figures"][0]["tokens_per_second"]["median"] > 0
    assert (tmp_path / "plot.svg").read_text("utf-8").startswith("<svg")


def test_bench_needs_nothing_of_training(command, bundle):
    absent = ("torch", "transformers", "matplotlib", "onnx")
    done = command("bench", bundle, *QUICK, absent=absent)

    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--against", "lama.cpp"), "close to: llama.cpp"),
        (("--plot", "plot.pdf"), ".svg or a .png"),
        (("--precision", "int3"), "no precision of this bundle named 'int3'"),
        (("--prompt-tokens", "63"), "do not fit the model's context"),
    ],
)
def test_bench_refuses_what_cannot_be_before_it_measures(lmkit, bundle, typed, said):
    done = lmkit("bench", bundle, *QUICK, *typed)

    assert done.code == 1
    assert said in done.err
    assert not done.out


@pytest.mark.parametrize(
    "typed", [("--batch", "1,x"), ("--new-tokens", "0"), ("--peer-python", "x")]
)
def test_bench_tells_a_wrong_option_as_usage(lmkit, bundle, typed):
    assert lmkit("bench", bundle, *typed).code == 2


def test_ctrl_c_ends_bench_and_its_sides(bundle):
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lmkit.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "bench", str(bundle), "--rounds", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (sides := _children(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert err.strip().endswith("error: interrupted")
    assert not out
    assert not any(os.path.exists(f"/proc/{pid}") for pid in sides)


def _children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        pytest.skip("this system does not tell a process's children")
