"""Bundles that earlier versions saved answer as they did, without torch."""

import json
import zipfile

import pytest

import lmkit as lk
from compat.archives import ARCHIVES, unpacked
from lmkit.runtime.opening import verify
from lmkit.saving.manifest import FORM, read_manifest


def test_it_answers_as_it_did(saved):
    ask = lk.load(saved.bundle)  # which compares the golden prompts, too

    for was in saved.answers:
        answer = ask(was["record"], **saved.options)
        assert answer.text == was["text"]
        assert same(answer.value, was["value"])


def test_it_is_whole(saved):
    assert verify(saved.bundle)["schema"].startswith(str(saved.json("bundle/lmkit.json")["schema"]))


def test_every_precision_answers(saved):
    """Those of schema 3 have several."""
    manifest = read_manifest(saved.bundle)
    for precision in manifest.precisions:
        ask = lk.load(saved.bundle, precision=precision)
        for was in saved.answers[:1]:
            assert ask(was["record"], **saved.options).text


def test_its_task_is_the_runs(saved):
    assert read_manifest(saved.bundle).task == lk.get_task(saved.run)


def test_there_is_one_of_every_schema_and_family():
    found = set()
    for archive in ARCHIVES:
        with zipfile.ZipFile(archive) as zipped:
            manifest = json.loads(zipped.read("bundle/lmkit.json"))
        found |= {(manifest["schema"], family) for family in manifest["families"]}

    families = {"causal", "masked", "seq2seq"}
    assert found >= {(1, "causal")} | {
        (schema, family) for schema in range(2, FORM.newest + 1) for family in families
    }


def test_each_is_small():
    assert max(archive.stat().st_size for archive in ARCHIVES) < 100_000


def test_one_that_is_changed_is_noticed(tmp_path):
    """The comparison with what was answered can fail."""
    old = unpacked(ARCHIVES[0], tmp_path)
    manifest = old.json("bundle/lmkit.json")
    manifest["golden"][0]["token_ids"][0] += 1
    (old.bundle / "lmkit.json").write_text(json.dumps(manifest), "utf-8")

    with pytest.raises(lk.LmkitError, match="damaged"):
        lk.load(old.bundle)


def same(now, was):
    """Say whether two answers' values agree; scores are floats of another machine."""
    if isinstance(was, float):
        return now == pytest.approx(was, abs=1e-4)
    if isinstance(was, list):
        return len(now) == len(was) and all(map(same, now, was))
    if isinstance(was, dict):
        return now.keys() == was.keys() and all(same(now[key], was[key]) for key in was)
    return now == was
