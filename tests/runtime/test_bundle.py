"""A bundle that is not what was written is refused with the reason, before it can answer."""

import json
import shutil
import subprocess
import sys

import onnx
import pytest

import lmkit as lk
from lmkit.errors import BundleError, PluginError
from lmkit.runtime.bundle import open_bundle
from lmkit.runtime.opening import verify
from lmkit.saving.manifest import SCHEMA

from .toybundle import RECORD, change_manifest, sign

FILES = [
    "model.onnx",
    "model.onnx.data",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]


def _tensor(name, dtype, *axes):
    return {"name": name, "dtype": dtype, "axes": list(axes)}


def _kept(name, length):
    axes = ("batch_size", 2, length, 8)
    return [_tensor(f"{name}.0.{part}", "float32", *axes) for part in ("key", "value")]


WRITTEN_AT_SCHEMA_1 = {
    "schema": 1,
    "lmkit": "0.1.0",
    "families": ["causal"],
    "task": {
        "type": "Task",
        "name": "toy",
        "formatter": {
            "type": "Template",
            "pieces": [
                {"template": "Q: {prompt}\nA:", "learn": False, "when": []},
                {"template": " {completion}", "learn": True, "when": []},
            ],
        },
        "collator": {"type": "CausalCollator", "max_length": 64, "pad_to_multiple_of": 1},
        "decoder": {"type": "TextDecoder", "stop": [], "strip": True},
        "generation": {
            "type": "Generation",
            "max_new_tokens": 12,
            "min_new_tokens": 0,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "seed": None,
            "stop": [],
        },
        "metrics": [],
        "description": "",
    },
    "graph": {
        "file": "model.onnx",
        "inputs": [
            _tensor("input_ids", "int64", "batch_size", "sequence_length"),
            _tensor("attention_mask", "int64", "batch_size", "total_sequence_length"),
            _tensor("position_ids", "int64", "batch_size", "sequence_length"),
            *_kept("past_key_values", "past_sequence_length"),
        ],
        "outputs": [
            _tensor("logits", "float32", "batch_size", "sequence_length", 264),
            *_kept("present", "present_sequence_length"),
        ],
        "n_layers": 1,
        "n_kv_heads": 2,
        "head_size": 8,
        "vocab_size": 264,
        "context_length": 64,
    },
    "tokens": {"eos": 0, "stop": [0], "pad": 1, "bos": 0},
}


def test_the_bundle_has_these_files(bundle):
    assert sorted([*FILES, "lmkit.json"]) == sorted(path.name for path in bundle.iterdir())


class TestItsFiles:
    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
    def test_one_flipped_byte_is_found_and_the_file_named(self, copied, name, place):
        raw = bytearray((copied / name).read_bytes())
        raw[place] ^= 1
        (copied / name).write_bytes(raw)

        with pytest.raises(BundleError, match=rf"damaged: '{name}'.*sha256"):
            lk.load(copied)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("whole", [True, False], ids=["verify", "quick"])
    def test_a_missing_one_is_named(self, copied, name, whole):
        (copied / name).unlink()

        with pytest.raises(BundleError, match=rf"'{name}' is missing"):
            lk.load(copied, verify=whole)

    @pytest.mark.parametrize("whole", [True, False], ids=["verify", "quick"])
    def test_one_of_another_size_is_named_with_both_sizes(self, copied, whole):
        file = copied / "model.onnx.data"
        size = file.stat().st_size
        file.write_bytes(file.read_bytes()[:-3])

        with pytest.raises(BundleError, match=rf"'model.onnx.data' has {size - 3} bytes, {size}"):
            lk.load(copied, verify=whole)

    def test_a_folder_in_the_place_of_one_is_not_it(self, copied):
        (copied / "tokenizer.json").unlink()
        (copied / "tokenizer.json").mkdir()

        with pytest.raises(BundleError, match=r"'tokenizer\.json' is missing"):
            lk.load(copied)

    def test_a_graph_without_a_checksum_is_refused(self, copied):
        change_manifest(copied, lambda data: data["files"].pop("model.onnx"))

        with pytest.raises(BundleError, match="no checksum for its graph"):
            lk.load(copied)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
    @pytest.mark.parametrize("whole", [True, False], ids=["verify", "quick"])
    def test_a_name_that_leads_outside_is_refused(self, copied, name, whole):
        (copied.parent / "outside").write_text("x")
        entry = {"sha256": "0" * 64, "size_bytes": 1}
        change_manifest(copied, lambda data: data["files"].update({name: entry}))

        with pytest.raises(BundleError, match=rf"'{name}', which is outside"):
            lk.load(copied, verify=whole)

    def test_a_link_that_leads_outside_is_refused(self, copied):
        moved = copied.parent / "weights"
        shutil.move(copied / "model.onnx.data", moved)
        (copied / "model.onnx.data").symlink_to(moved)

        with pytest.raises(BundleError, match=r"'model\.onnx\.data', which is outside"):
            lk.load(copied)

    @pytest.mark.parametrize("location", ["../outside.data", "{outside}"])
    def test_a_graph_whose_weights_lie_outside_is_refused(self, copied, location):
        outside = copied.parent / "outside.data"
        shutil.move(copied / "model.onnx.data", outside)
        model = onnx.load(copied / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location.format(outside=outside)
        (copied / "model.onnx").write_bytes(model.SerializeToString())
        sign(copied)

        with pytest.raises(BundleError, match=r"cannot load.*model\.onnx"):
            lk.load(copied)


class TestItsManifest:
    def test_a_folder_without_one_is_no_bundle(self, tmp_path):
        with pytest.raises(BundleError, match=r"not a bundle: it has no lmkit\.json"):
            lk.load(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(BundleError, match=r"there is no bundle '.*gone'"):
            lk.load(tmp_path / "gone")

    def test_one_of_the_future_says_who_wrote_it_and_what_to_do(self, copied):
        change_manifest(copied, lambda data: data.update(schema=99, lmkit="9.9", graphs=[]))

        with pytest.raises(BundleError, match=r"schema 99, written by lmkit 9\.9.*pip install -"):
            lk.load(copied)

    def test_an_older_one_is_to_be_exported_again(self, copied):
        change_manifest(copied, lambda data: data.update(schema=0))

        with pytest.raises(BundleError, match=r"schema 0.*export it again"):
            lk.load(copied)

    def test_one_of_schema_1_answers_as_it_did(self, copied, ask):
        """Its task, graph and tokens as lmkit 0.1.0 wrote them, before there were other families."""
        change_manifest(copied, lambda data: data.update(WRITTEN_AT_SCHEMA_1))

        old = lk.load(copied)

        assert old.manifest.schema == 1
        assert old.task == ask.task
        assert old.manifest.graph == ask.manifest.graph
        assert old(RECORD) == ask(RECORD)
        assert verify(copied)["schema"] == "1, written by lmkit 0.1.0"

    def test_one_of_schema_1_says_what_is_wrong_with_it_too(self, copied):
        change_manifest(copied, lambda data: data.update(WRITTEN_AT_SCHEMA_1, graph={"file": "x"}))

        with pytest.raises(BundleError, match=r"missing @ \$\.graph\.inputs"):
            lk.load(copied)

    @pytest.mark.parametrize(
        "raw", [b"", b"{", b'{"schema": 1', b"\xff\xfe", b"not json", b"[" * 1_000_000]
    )
    def test_one_that_is_not_json_is_damaged(self, copied, raw):
        (copied / "lmkit.json").write_bytes(raw)

        with pytest.raises(BundleError, match=r"lmkit\.json' is damaged"):
            lk.load(copied)

    @pytest.mark.parametrize("raw", ["[]", "{}", "null", '{"schema": "1"}', '{"schema": true}'])
    def test_one_without_a_schema_is_no_bundle(self, copied, raw):
        (copied / "lmkit.json").write_text(raw)

        with pytest.raises(BundleError, match="no schema version"):
            lk.load(copied)

    @pytest.mark.parametrize("key", ["graph", "task", "tokens", "lmkit", "model"])
    def test_a_missing_key_is_named(self, copied, key):
        change_manifest(copied, lambda data: data.pop(key))

        with pytest.raises(BundleError, match=rf"missing @ \$\.{key}"):
            lk.load(copied)

    @pytest.mark.parametrize(
        ("part", "path"),
        [((), r"\$"), (("graph",), r"\$\.graph"), (("files", "model.onnx"), r"\$\.files\[")],
    )
    def test_an_unknown_key_is_named_with_its_place(self, copied, part, path):
        def change(data):
            for step in part:
                data = data[step]
            data["surprise"] = 1

        change_manifest(copied, change)

        with pytest.raises(BundleError, match=rf"surprise\) @ {path}"):
            lk.load(copied)

    @pytest.mark.parametrize(
        ("key", "content", "path"),
        [
            ("graph", 5, r"\$\.graph"),
            ("files", [], r"\$\.files"),
            ("tokens", {"stop": ["x"], "pad": 0}, r"\$\.tokens\.stop"),
            ("golden", {"a": 1}, r"\$\.golden"),
            ("precisions", [], r"\$\.precisions"),
            ("model", "toy", r"\$\.model"),
            ("task", None, r"\$\.task"),
        ],
    )
    def test_a_key_of_the_wrong_type_is_named(self, copied, key, content, path):
        change_manifest(copied, lambda data: data.update({key: content}))

        with pytest.raises(BundleError, match=path):
            lk.load(copied)

    @pytest.mark.parametrize(
        "families", [3, None, True, [], {"a": 1}, "causal", ["what"], [["causal"]], ["masked"]]
    )
    def test_families_that_are_not_the_tasks_are_refused(self, copied, families):
        change_manifest(copied, lambda data: data.update(families=families))

        with pytest.raises(
            BundleError, match=r"lmkit\.json' does not describe a bundle: .* @ \$\."
        ):
            lk.load(copied)

    def test_a_task_with_an_unknown_type_says_which(self, copied):
        change_manifest(copied, lambda d: d["task"]["formatter"].update(type="Templte"))

        with pytest.raises(BundleError, match=r"Templte.*close to: Template"):
            lk.load(copied)

    def test_a_task_with_a_bad_setting_says_which(self, copied):
        change_manifest(copied, lambda d: d["task"]["generation"].update(temperature=-1))

        with pytest.raises(BundleError, match="temperature is -1"):
            lk.load(copied)

    def test_a_missing_plugin_is_named_with_what_to_install(self, copied):
        def change(data):
            data["task"]["formatter"] = {"type": "haiku:Verses", "lines": 3}
            needed = {"plugin": "haiku", "distribution": "lmkit-haiku", "version": "1.2.3"}
            data["plugins"] = [needed]

        change_manifest(copied, change)

        with pytest.raises(PluginError, match=r"haiku:Verses.*pip install 'lmkit-haiku==1.2.3'"):
            lk.load(copied)

    @pytest.mark.parametrize("plugins", [[], [{}], ["haiku"], 5, None])
    def test_a_missing_plugin_that_nobody_distributes_is_still_named(self, copied, plugins):
        def change(data):
            data["task"]["formatter"] = {"type": "haiku:Verses"}
            data["plugins"] = plugins

        change_manifest(copied, change)

        with pytest.raises(PluginError, match=r"haiku:Verses.*--plugin"):
            lk.load(copied)


class TestItsGoldenPrompts:
    def test_one_that_encodes_otherwise_is_shown_with_both_ids(self, copied):
        change_manifest(copied, lambda data: data["golden"][0]["prompt_ids"].append(5))

        for whole in (True, False):
            with pytest.raises(BundleError, match=r"did at export: the prompt for .*encodes to"):
                lk.load(copied, verify=whole)

    def test_a_template_that_was_changed_is_found_by_them(self, copied):
        change_manifest(
            copied,
            lambda data: data["task"]["formatter"]["pieces"][0].update(template="{prompt}\nA:"),
        )

        with pytest.raises(BundleError, match="encodes to"):
            lk.load(copied, verify=False)

    def test_one_that_no_longer_fits_the_task_is_shown(self, copied):
        change_manifest(copied, lambda data: data["golden"][0].update(record={"question": "x"}))

        with pytest.raises(BundleError, match=r"golden.*'prompt' is missing"):
            lk.load(copied)

    def test_another_answer_is_refused_and_only_the_quick_way_skips_it(self, copied):
        change_manifest(copied, lambda data: data["golden"][0]["token_ids"].reverse())

        with pytest.raises(BundleError, match="is answered with the tokens"):
            lk.load(copied)
        assert lk.load(copied, verify=False)(RECORD).text

    def test_other_weights_of_the_same_size_are_found_by_them(self, copied):
        """Whoever replaces the weights can replace the checksum, too."""
        file = copied / "model.onnx.data"
        file.write_bytes(bytes(reversed(file.read_bytes())))
        sign(copied)

        with pytest.raises(lk.LmkitError):
            lk.load(copied)


class TestTheQuickWay:
    def test_it_reads_no_checksum(self, copied, monkeypatch):
        monkeypatch.setattr("lmkit.runtime.bundle.sha256_of", pytest.fail)

        assert lk.load(copied, verify=False)(RECORD) == lk.load(copied, verify=False)(RECORD)

    def test_it_answers_no_golden_prompt(self, copied, monkeypatch):
        monkeypatch.setattr("lmkit.runtime.generator.Generator.greedy", pytest.fail)

        lk.load(copied, verify=False)


class TestVerify:
    def test_it_says_what_was_checked(self, bundle):
        checks = verify(bundle)

        assert list(checks) == ["schema", "files", "graph", "golden prompts"]
        assert "5 files" in checks["files"]
        assert "5 inputs and 3 outputs" in checks["graph"]
        assert "6 greedy tokens" in checks["golden prompts"]

    def test_it_refuses_what_loading_refuses(self, copied):
        (copied / "tokenizer.json").unlink()

        with pytest.raises(BundleError):
            verify(copied)


def test_the_path_may_be_text_or_a_path(bundle):
    assert open_bundle(str(bundle)).manifest == open_bundle(bundle).manifest
    assert json.loads((bundle / "lmkit.json").read_text("utf-8"))["schema"] == SCHEMA


@pytest.mark.parametrize("how", ["ask(r)", "list(ask.stream(r))", "ask.batch([r, r])"])
def test_answering_imports_nothing_of_training(bundle, how):
    heavy = ("torch", "transformers", "datasets", "accelerate", "onnx", "onnxscript")
    script = (
        "import sys, json, lmkit as lk\n"
        "ask = lk.load(sys.argv[1]); r = json.loads(sys.argv[2])\n"
        f"assert {how}\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, bundle, json.dumps(RECORD)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_changed_setting_in_the_manifest_itself_is_noticed(copied):
    file = copied / "lmkit.json"
    text = file.read_text("utf-8")
    changed = text.replace('"top_p": 1.0', '"top_p": 0.9')
    assert changed != text
    file.write_text(changed, "utf-8")

    with pytest.raises(BundleError, match=r"lmkit\.json' is damaged: .* sha256 differs"):
        lk.load(copied, verify=False)
