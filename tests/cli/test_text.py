"""`char-lm` from the command line: one text in, a run and a bundle that write on."""

import json

import pytest

import lmkit as lk

pytestmark = pytest.mark.slow

TEXT = "나는 간다.\n\n너는 온다.\nthe sea is blue.\n" * 30
MODEL = "scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=33"
FEW = ("--set", "max_steps=2", "--set", "use_cpu=true", "--set", "save_strategy=no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a text, a run of it and the run's bundle; they are only read."""
    from lmkit.cli.main import run

    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    trained = run(
        [
            *("train", "char-lm", "--model", MODEL, "--tokenizer", "char"),
            *("--data", str(folder / "text.txt"), "--eval-fraction", "0.1"),
            *("--output", str(folder / "run"), *FEW),
        ]
    )
    exported = run(
        [
            *("export", str(folder / "run"), "--output", str(folder / "bundle")),
            *("--data", str(folder / "text.txt")),
        ]
    )
    assert (trained, exported) == (0, 0)
    return folder


def test_the_tail_is_measured_and_the_rest_is_learned(folder):
    about = json.loads((folder / "run" / "run.json").read_text("utf-8"))

    assert about["metrics"]["eval_perplexity"] > 1
    assert about["eval_fraction"] == 0.1


def test_run_and_bundle_write_the_same_past_the_context(folder, lmkit):
    asked = ("--set", "prompt=나는", "--temperature", "0", "--max-new-tokens", "80", "--json")

    run, bundle = (lmkit("generate", folder / name, *asked) for name in ("run", "bundle"))

    assert run.code == bundle.code == 0
    assert json.loads(run.out) == json.loads(bundle.out)
    assert json.loads(bundle.out)["usage"]["completion_tokens"] == 80


def test_run_and_bundle_measure_the_same(folder, lmkit):
    told = ("--data", folder / "text.txt", "--json")

    run, bundle = (
        json.loads(lmkit("evaluate", folder / name, *told).out) for name in ("run", "bundle")
    )

    assert run["tokens"] == bundle["tokens"] == len(TEXT) - 1
    assert run["loss"] == pytest.approx(bundle["loss"], abs=1e-4)


def test_the_bundle_was_checked_on_pieces_of_the_text(folder):
    bundle = lk.load(folder / "bundle")

    prompts = [golden.record["prompt"] for golden in bundle.manifest.golden]
    assert prompts
    assert all(prompt in TEXT for prompt in prompts)


@pytest.mark.parametrize("name", ["run", "bundle"])
def test_an_unseen_character_in_a_prompt_is_named(folder, lmkit, name):
    done = lmkit("generate", folder / name, "--set", "prompt=나는 漢")

    assert done.code == 1
    assert "the tokenizer has not learned the characters '漢' (U+6F22)" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["run", "bundle"])
def test_an_unseen_character_in_a_file_is_named_with_its_record(folder, lmkit, jsonl, name):
    rows = jsonl([{"prompt": "나는"}, {"prompt": "漢"}])

    done = lmkit("generate", folder / name, "--input", rows)

    assert done.code == 1
    assert f"{rows}:2: the tokenizer has not learned" in done.err


def test_the_bundle_is_whole(folder, lmkit):
    assert lmkit("verify", folder / "bundle").code == 0


def test_unseen_characters_are_read_as_unknown_when_asked(folder, lmkit, tmp_path):
    done = lmkit(
        *("train", "char-lm", "--model", MODEL, "--tokenizer", "char:unk"),
        *("--data", folder / "text.txt", "--output", tmp_path / "run", *FEW),
    )
    asked = ("--set", "prompt=漢", "--max-new-tokens", "5", "--json")
    written = lmkit("generate", tmp_path / "run", *asked)

    assert (done.code, written.code) == (0, 0)
    assert json.loads(written.out)["usage"]["prompt_tokens"] == 1
