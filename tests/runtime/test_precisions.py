"""A bundle of several precisions is opened at the one that is asked for, and each is checked."""

import shutil

import pytest

import lmkit as lk
from lmkit.answering import open_answerer
from lmkit.errors import BundleError, TaskError, UnknownName
from lmkit.runtime.opening import verify
from lmkit.saving.manifest import read_manifest
from lmkit.saving.precisions import file_of, named

from .toybundle import RECORD, change_manifest, sign, write_bundle


@pytest.fixture
def several(tmp_path):
    """Return a bundle whose int4 graph is another model than its default one."""
    folder = write_bundle(tmp_path / "bundle")
    other = write_bundle(tmp_path / "other", says="네")
    for end in ("", ".data"):
        shutil.copy(other / f"model.onnx{end}", folder / f"model.int4.onnx{end}")
    raw = (folder / "model.int4.onnx").read_bytes()
    (folder / "model.int4.onnx").write_bytes(raw.replace(b"model.onnx.data", b"model.int4.data"))
    (folder / "model.int4.onnx.data").rename(folder / "model.int4.data")
    tokens = list(read_manifest(other).golden[0].token_ids)
    figures = {"files": {"model.onnx": "model.int4.onnx"}, "golden": [tokens]}
    change_manifest(folder, lambda data: data["precisions"].update(int4=figures))
    sign(folder)
    return folder


def test_the_default_one_has_the_plain_files(several, bundle):
    assert lk.load(several)(RECORD) == lk.load(bundle)(RECORD)
    assert lk.load(several, precision="fp32")(RECORD) == lk.load(bundle)(RECORD)


def test_another_one_is_chosen_by_its_name(several):
    ask = lk.load(several, precision="int4")

    assert ask(RECORD).text.startswith("네")
    assert ask.manifest.precision == "int4"
    assert ask.manifest.graph.file == "model.int4.onnx"
    assert open_answerer(several, precision="int4")(RECORD) == ask(RECORD)


def test_one_that_is_not_there_is_told_with_the_near_names(several):
    with pytest.raises(UnknownName, match=r"no precision in this bundle named 'int5'\n.*int4"):
        lk.load(several, precision="int5")


def test_an_older_bundle_of_one_precision_knows_its_name(bundle):
    assert lk.load(bundle, precision="fp32").manifest.precision == "fp32"
    with pytest.raises(UnknownName, match="known: fp32"):
        lk.load(bundle, precision="int4")


def test_a_run_has_no_precisions(tmp_path):
    (tmp_path / "task.json").write_text("{}")

    with pytest.raises(TaskError, match=r"no bundle, so it has no precisions.*--precision"):
        open_answerer(tmp_path, precision="int4")


def test_all_of_them_are_verified(several):
    golden = read_manifest(several)
    counts = [len(golden.at(name).golden[0].token_ids) for name in ("fp32", "int4")]

    checks = verify(several)

    assert f"{counts[0]} (fp32), {counts[1]} (int4) greedy tokens" in checks["golden prompts"]


def test_one_that_answers_otherwise_is_found_though_it_is_not_the_default(several):
    change_manifest(several, lambda data: data["precisions"]["int4"].update(golden=[[5, 6, 7]]))

    lk.load(several)
    with pytest.raises(BundleError, match="does not behave as it did at export"):
        lk.load(several, precision="int4")
    with pytest.raises(BundleError, match="does not behave as it did at export"):
        verify(several)


@pytest.mark.parametrize("name", ["gone.onnx", "../model.onnx", "/etc/hostname"])
def test_a_graph_that_is_no_file_of_the_bundle_is_refused(several, name):
    files = {"model.onnx": name}
    change_manifest(several, lambda data: data["precisions"]["int4"].update(files=files))

    with pytest.raises(BundleError, match="no checksum for its graph"):
        lk.load(several)


def test_tokens_for_another_number_of_golden_prompts_are_refused(several):
    change_manifest(several, lambda data: data["precisions"]["int4"].update(golden=[]))

    with pytest.raises(BundleError, match=r"1 golden prompts and tokens for 0 .*int4\.golden"):
        lk.load(several)


def test_a_default_that_is_not_there_is_refused(several):
    change_manifest(several, lambda data: data.update(precision="int8"))

    with pytest.raises(BundleError, match=r"its precision is 'int8', and it has fp32, int4"):
        lk.load(several)


def test_a_bundle_of_schema_2_is_read(bundle, copied):
    """Its figures stood under free names, and its golden tokens with the prompts only."""

    def older(data):
        data["schema"] = 2
        del data["precision"]
        data["precisions"] = {
            "fp32": {
                "parity": {"max_logit_difference": 0.0},
                "size_bytes": 7,
                "perplexity": {"bundle": 4.4, "torch": 4.4, "tokens": 3, "records": 1},
            }
        }

    change_manifest(copied, older)
    ask = lk.load(copied)

    assert ask(RECORD) == lk.load(bundle)(RECORD)
    found = ask.manifest.precisions["fp32"]
    assert (found.size_bytes, found.perplexity["torch"]) == (7, 4.4)
    assert found.golden == tuple(entry.token_ids for entry in ask.manifest.golden)
    assert verify(copied)["schema"].startswith("2,")


class TestNames:
    def test_are_given_as_a_list_or_as_one_text(self):
        assert named("fp32, int4") == named(["fp32", "int4"]) == ("fp32", "int4")

    def test_that_do_not_exist_are_told_with_the_near_ones(self):
        with pytest.raises(UnknownName, match=r"no precision named 'int3'\n.*int"):
            named("fp32,int3")

    @pytest.mark.parametrize("names", ["int4,int4", []])
    def test_come_once_each(self, names):
        with pytest.raises(TaskError, match="expected each one once"):
            named(names)

    def test_make_the_files_names(self):
        assert file_of("encoder.onnx", "int8", "int8") == "encoder.onnx"
        assert file_of("model.onnx.data", "int4", "fp32") == "model.int4.onnx.data"
