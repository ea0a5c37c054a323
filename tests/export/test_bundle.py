"""What an export leaves on the disk: a whole bundle, or nothing."""

import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
transformers = pytest.importorskip("transformers")

from deploy.other_tokens import with_other_tokens  # noqa: E402
from exported import CHATS, CONTEXT_LENGTH, GPT2, LLAMA, ROWS, train_tiny  # noqa: E402

import lmkit as lk  # noqa: E402
import lmkit.files as files  # noqa: E402
import lmkit.tokenizing as tokenizing  # noqa: E402
from lmkit.decoding.text import TextDecoder  # noqa: E402
from lmkit.encoding import prompt_ids  # noqa: E402
from lmkit.errors import (  # noqa: E402
    ExportError,
    LmkitError,
    OutputExists,
    QualityError,
    RecordError,
    SerialError,
    UnknownName,
    UnknownTask,
)
from lmkit.export import bundle as exporting  # noqa: E402
from lmkit.export import causal, external  # noqa: E402
from lmkit.export import graph as tracing  # noqa: E402
from lmkit.saving.manifest import read_manifest  # noqa: E402
from lmkit.train import models  # noqa: E402

pytestmark = pytest.mark.slow

LAYOUT = {
    "README.md",
    "chat_template.jinja",
    "genai_config.json",
    "lmkit.json",
    "model.onnx",
    "model.onnx.data",
    "tokenizer.json",
    "tokenizer_config.json",
}
RECORD = {"prompt": "안녕하세요?"}


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def no_work(monkeypatch):
    """Fail the test as soon as a model is loaded."""
    monkeypatch.setattr(models, "load_model", lambda *a, **k: pytest.fail("it worked"))


@pytest.fixture
def old(tmp_path):
    """Return an older bundle's folder, which must survive every failure."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "lmkit.json").write_text("old")
    return folder


class TestTheLayout:
    def test_it_has_these_files_and_no_others(self, tiny_bundle):
        assert names(tiny_bundle) == LAYOUT

    def test_nothing_lies_beside_it(self, tiny_bundle):
        assert names(tiny_bundle.parent) == {"bundle"}

    def test_every_other_file_has_its_sha256_and_size(self, tiny_bundle):
        files = read_manifest(tiny_bundle).files

        assert set(files) == LAYOUT - {"lmkit.json"}
        for name, entry in files.items():
            raw = (tiny_bundle / name).read_bytes()
            assert entry.sha256 == hashlib.sha256(raw).hexdigest()
            assert entry.size_bytes == len(raw)

    def test_all_weights_lie_in_the_one_file_beside_the_graph(self, tiny_bundle):
        graph = onnx.load(tiny_bundle / "model.onnx", load_external_data=False).graph
        places = {
            entry.value
            for tensor in graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }

        assert places == {"model.onnx.data"}

    def test_the_graph_is_readable_by_the_runtimes_oldest_format(self, tiny_bundle):
        assert onnx.load(tiny_bundle / "model.onnx", load_external_data=False).ir_version <= 13

    def test_it_is_not_much_larger_than_the_weights(self, tiny_bundle, tiny_run):
        weights = (tiny_run / "model.safetensors").stat().st_size
        graph = onnx.load(tiny_bundle / "model.onnx", load_external_data=False).graph
        n_outside = sum(bool(tensor.external_data) for tensor in graph.initializer)
        # A large weight starts on a page of its own, half of which is lost before it on average: in a
        # model of 36 thousand weights that shows.
        lost = n_outside * external.ALIGNMENT / 2

        assert (tiny_bundle / "model.onnx.data").stat().st_size <= 1.03 * weights + lost


class TestTheManifest:
    def test_the_task_is_the_runs(self, tiny_bundle, tiny_run):
        data = json.loads((tiny_bundle / "lmkit.json").read_text("utf-8"))

        task = json.loads((tiny_run / "task.json").read_text("utf-8"))
        assert data["task"].items() <= task.items()  # whose heading says what wrote it

    def test_it_says_what_is_in_the_graph(self, tiny_bundle):
        graph = read_manifest(tiny_bundle).graph
        model = onnx.load(tiny_bundle / "model.onnx", load_external_data=False).graph

        # What has a default may be left out, so a runtime need not know of it.
        optional = {tensor.name for tensor in model.initializer}
        needed = [value.name for value in model.input if value.name not in optional]
        assert [t.name for t in graph.inputs] == needed
        assert [t.name for t in graph.outputs] == [value.name for value in model.output]
        assert (graph.n_layers, graph.n_kv_heads, graph.head_size) == (2, 2, 8)
        assert graph.context_length == CONTEXT_LENGTH

    def test_special_ids_are_the_tokenizers(self, tiny_bundle):
        tokenizer = lk.Tokenizer.load(tiny_bundle)
        tokens = read_manifest(tiny_bundle).tokens

        assert tokens.stop == (tokenizer.eos_id,)
        assert (tokens.pad, tokens.bos) == (tokenizer.pad_id, tokenizer.bos_id)

    def test_it_has_the_measured_figures(self, tiny_bundle):
        figures = read_manifest(tiny_bundle).precisions["fp32"]

        assert figures.parity["greedy_tokens_equal"] is True
        assert figures.parity["prompts"] >= 4
        assert figures.parity["max_logit_difference"] < 1e-3
        assert figures.perplexity["records"] == len(ROWS)
        sizes = [(tiny_bundle / f"model.onnx{end}").stat().st_size for end in ("", ".data")]
        assert figures.size_bytes == pytest.approx(sum(sizes), abs=20 * external.ALIGNMENT)

    def test_golden_prompts_are_the_users_records_with_their_ids(self, tiny_bundle):
        manifest = read_manifest(tiny_bundle)

        assert len(manifest.golden) == 4
        for golden in manifest.golden:
            ids = prompt_ids(manifest.task, golden.record, tiny_bundle)
            assert golden.prompt_ids == tuple(ids.tolist())
            assert golden.record in [{"prompt": row["prompt"]} for row in ROWS]

    def test_built_in_tasks_need_no_plugin(self, tiny_bundle):
        assert read_manifest(tiny_bundle).plugins == ()

    def test_perplexity_is_that_of_evaluate(self, tiny_bundle, tiny_run):
        figures = read_manifest(tiny_bundle).precisions["fp32"].perplexity

        measured = lk.evaluate(tiny_run, data=ROWS)["perplexity"]
        assert figures["bundle"] == pytest.approx(measured, rel=1e-4)


class TestTheCard:
    def test_its_figures_are_the_manifests(self, tiny_bundle):
        card = (tiny_bundle / "README.md").read_text("utf-8")
        figures = read_manifest(tiny_bundle).precisions["fp32"]

        lines = [line.strip("| ").split(" | ") for line in card.splitlines() if " | " in line]
        titles = next(cells for cells in lines if cells[0] == "precision")
        measured = dict(zip(titles, next(c for c in lines if c[0] == "fp32"), strict=True))
        rows = dict(cells for cells in lines if len(cells) == 2)
        assert measured["perplexity"] == f"{figures.perplexity['bundle']:.3f}"
        assert measured["size"] == f"{figures.size_bytes / 1000:.1f} kB"
        assert measured["greedy tokens as fp32"] == "100.0%"
        parity = figures.parity
        assert rows["fp32 max logit difference"] == f"{parity['max_logit_difference']:.3g}"
        assert rows["fp32 greedy tokens compared"] == str(parity["greedy_tokens_compared"])
        assert f"over {figures.perplexity['tokens']} learned tokens of {len(ROWS)} records" in card

    def test_it_shows_how_to_ask(self, tiny_bundle):
        card = (tiny_bundle / "README.md").read_text("utf-8")

        assert 'ask({"prompt": "..."})' in card
        assert "--set prompt=" in card
        assert "LlamaForCausalLM" in card


class TestOtherReaders:
    def test_transformers_reads_its_tokenizer(self, tiny_bundle):
        theirs = transformers.AutoTokenizer.from_pretrained(tiny_bundle)
        ours = lk.Tokenizer.load(tiny_bundle)

        for text in ("안녕하세요? 😊", "What is 2+2?", "a  b\n"):
            assert theirs(text)["input_ids"] == ours.encode(text)
            assert theirs.decode(ours.encode(text)) == text
        assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)

    def test_genai_loads_it_unchanged_and_writes_the_same(self, tiny_bundle):
        genai = pytest.importorskip("onnxruntime_genai")
        ask = lk.load(tiny_bundle)
        model = genai.Model(str(tiny_bundle))

        for row in ROWS[:4]:
            prompt = prompt_ids(ask.task, row, ask.tokenizer)
            params = genai.GeneratorParams(model)
            params.set_search_options(max_length=len(prompt) + 12, do_sample=False)
            generator = genai.Generator(model, params)
            generator.append_tokens(prompt.astype(np.int32)[None])
            written = []
            while not generator.is_done():
                generator.generate_next_token()
                written.append(int(generator.get_next_tokens()[0]))

            assert written == list(ask(row, max_new_tokens=12).token_ids)
        assert read_manifest(tiny_bundle).genai == {"loads": True, "version": genai.__version__}

    def test_the_example_for_genai_writes_the_golden_tokens_and_sees_others(
        self, tiny_bundle, tmp_path
    ):
        pytest.importorskip("onnxruntime_genai")
        script = Path(__file__).parents[2] / "examples" / "deploy" / "genai.py"

        same, other = (
            subprocess.run(
                [sys.executable, script, folder], capture_output=True, encoding="utf-8", check=False
            )
            for folder in (tiny_bundle, with_other_tokens(tiny_bundle, tmp_path / "other"))
        )

        assert (same.returncode, same.stderr) == (0, "")
        assert "golden prompts answered with lmkit's tokens" in same.stdout
        assert "OTHER" not in same.stdout
        assert other.returncode == 1
        assert "OTHER" in other.stdout

    def test_genais_own_tokenizer_agrees(self, tiny_bundle):
        genai = pytest.importorskip("onnxruntime_genai")
        tokenizer = genai.Tokenizer(genai.Model(str(tiny_bundle)))

        text = "안녕하세요? What is it?"
        assert list(tokenizer.encode(text)) == lk.Tokenizer.load(tiny_bundle).encode(text)

    def test_the_runtime_answers_as_the_run_does(self, tiny_bundle, tiny_run):
        from lmkit.answering import open_answerer

        records = [{"prompt": row["prompt"]} for row in ROWS[:4]]
        wanted = open_answerer(tiny_run).batch(records, max_new_tokens=20)

        assert open_answerer(tiny_bundle).batch(records, max_new_tokens=20) == wanted


class TestRefusedBeforeAnyWork:
    def test_an_output_that_exists(self, tiny_run, old, no_work):
        with pytest.raises(OutputExists, match=r"bundle' already exists.*--force"):
            lk.export(tiny_run, output=old)

        assert names(old) == {"lmkit.json"}

    def test_a_task_that_cannot_become_json(self, tiny_run, tmp_path, no_work):
        class Shout(TextDecoder):
            pass

        task = lk.get_task("qa").evolve(decoder=Shout())

        with pytest.raises(SerialError, match="Shout"):
            lk.export(tiny_run, task=task, output=tmp_path / "out")

        assert names(tmp_path) == set()

    def test_a_model_without_a_task_says_what_to_give(self, tiny_run, tmp_path, no_work):
        shutil.copytree(tiny_run, tmp_path / "model")
        (tmp_path / "model" / "task.json").unlink()

        with pytest.raises(ExportError, match=r"no task\.json.*--task.*such as chat"):
            lk.export(tmp_path / "model", output=tmp_path / "out")

    def test_a_loaded_model_without_a_task(self, tmp_path, no_work):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, vocab_size=9))

        with pytest.raises(ExportError, match=r"LlamaForCausalLM.*--task") as caught:
            lk.export(model, output=tmp_path / "out")

        assert len(str(caught.value)) < 200

    def test_an_unknown_task(self, tiny_run, tmp_path, no_work):
        with pytest.raises(UnknownTask, match="close to: chat"):
            lk.export(tiny_run, task="chatt", output=tmp_path / "out")

    def test_an_unknown_precision(self, tiny_run, tmp_path, no_work):
        with pytest.raises(UnknownName, match="no precision named 'fp8'"):
            lk.export(tiny_run, precision="fp8", output=tmp_path / "out")

    def test_data_that_is_not_there(self, tiny_run, tmp_path, no_work):
        with pytest.raises(RecordError, match=r"gone\.jsonl"):
            lk.export(tiny_run, output=tmp_path / "out", data=tmp_path / "gone.jsonl")

    def test_data_without_the_tasks_column_names_its_place(self, tiny_run, tmp_path):
        (tmp_path / "x.jsonl").write_text('{"question": "x", "completion": "y"}\n' * 5)

        with pytest.raises(RecordError, match=r"x\.jsonl:\d.*'prompt'"):
            lk.export(tiny_run, output=tmp_path / "out", data=tmp_path / "x.jsonl")

        assert names(tmp_path) == {"x.jsonl"}

    def test_an_architecture_that_cannot_be_exported(self, tiny_run, tmp_path, monkeypatch):
        monkeypatch.setattr(tracing, "traced_causal", pytest.fail)
        config = transformers.BloomConfig(
            vocab_size=400, hidden_size=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )

        with pytest.raises(ExportError, match=r"^BloomForCausalLM cannot be exported[^\n]*$"):
            lk.export(
                transformers.BloomForCausalLM(config),
                task="qa",
                tokenizer=tiny_run,
                output=tmp_path / "out",
            )

        assert names(tmp_path) == set()


STAGES = {
    "the graph": (external.ir, "save"),
    "the tokenizer": (tokenizing.Tokenizer, "save"),
    "the genai config": (causal, "write_genai_config"),
    "the card": (exporting, "write_card"),
    "the manifest": (exporting, "write_manifest"),
    "the rename": (files.os, "replace"),
}


@pytest.mark.usefixtures("quick")
class TestAFailureInTheMiddle:
    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("failure", ["full disk", "Ctrl-C"])
    @pytest.mark.parametrize("there", [False, True], ids=["new", "forced"])
    def test_leaves_nothing_new_and_the_old_bundle_whole(
        self, tiny_run, tmp_path, monkeypatch, stage, failure, there
    ):
        if there:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "lmkit.json").write_text("old")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fail(*args, **named):
            raise full if failure == "full disk" else KeyboardInterrupt

        monkeypatch.setattr(*STAGES[stage], fail)
        expected = LmkitError if failure == "full disk" else KeyboardInterrupt
        words = "cannot be written: No space left" if failure == "full disk" else None

        with pytest.raises(expected, match=words):
            lk.export(tiny_run, output=tmp_path / "out", force=there)

        monkeypatch.undo()
        assert names(tmp_path) == ({"out"} if there else set())
        if there:
            assert (tmp_path / "out" / "lmkit.json").read_text() == "old"

    def test_force_replaces_the_old_bundle_as_a_whole(self, tiny_run, old):
        (old / "left.over").write_text("x")

        lk.export(tiny_run, output=old, force=True)

        assert names(old) == LAYOUT
        assert names(old.parent) == {"bundle"}
        assert lk.load(old)(RECORD).text

    def test_data_without_answers_is_no_failure(self, tiny_run, tmp_path):
        questions = [{"prompt": row["prompt"]} for row in ROWS]

        bundle = lk.export(tiny_run, output=tmp_path / "out", data=questions)

        figures = bundle.manifest.precisions["fp32"].perplexity
        assert "has no answers" in figures["not_measured"]

    def test_a_decoders_stop_string_in_an_answer_is_no_failure(self, tiny_run, tmp_path):
        """Torch knows no stop strings, so the comparison must not stop at them either."""
        text = lk.load(lk.export(tiny_run, output=tmp_path / "a", data=ROWS))(RECORD).text
        task = lk.get_task("qa").evolve(decoder=TextDecoder(stop=(text[1:3],)))

        lk.export(tiny_run, task=task, output=tmp_path / "b", data=ROWS)

        assert lk.load(tmp_path / "b")(RECORD).text == text[:1]


@pytest.mark.usefixtures("quick")
def test_a_kill_leaves_no_bundle_and_the_next_export_succeeds(tiny_run, tmp_path):
    script = (
        "import os, signal, sys, lmkit as lk\n"
        "from lmkit.export.external import Weights\n"
        "def half(self, graphs, data):\n"
        "    (self._folder / data).write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Weights.save = half\n"
        "lk.export(sys.argv[1], output=sys.argv[2])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, tiny_run, tmp_path / "out"], capture_output=True, check=False
    )

    assert done.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 1
    assert all(name.startswith(".out.") and name.endswith(".part") for name in left)
    lk.export(tiny_run, output=tmp_path / "out")
    assert lk.load(tmp_path / "out")(RECORD).text


def test_the_torch_model_is_gone_before_the_graph_is_opened(tiny_run, tmp_path, monkeypatch):
    """Two of them would not fit where one does, as a session copies what it packs."""
    models_seen, alive = [], []
    refer, opened = causal.refer, exporting.open_generator

    def noted(model, *others):
        models_seen.append(weakref.ref(model))
        return refer(model, *others)

    def counted(bundle, **options):
        alive.append(models_seen[0]() is not None)
        return opened(bundle, **options)

    monkeypatch.setattr(causal, "refer", noted)
    monkeypatch.setattr(exporting, "open_generator", counted)
    lk.export(tiny_run, output=tmp_path / "out", precision="fp32,int4")

    assert alive == [False, False]


@pytest.mark.usefixtures("quick")
class TestTheQualityGate:
    @pytest.fixture
    def perplexities(self, monkeypatch):
        """Let measured perplexities be these, one after another."""
        found = []

        def scored(generator, sample, on_progress):
            return {"bundle": found.pop(0), "tokens": sample.n_tokens, "records": sample.records}

        monkeypatch.setattr(exporting, "scored", scored)
        return found

    def test_what_loses_too_much_is_refused_with_figures_and_nothing_is_left(
        self, tiny_run, tmp_path, perplexities
    ):
        perplexities += [10.0, 10.6, 10.1, 12.0, 11.5, 11.0, 10.9]

        with pytest.raises(QualityError, match=r"(?s)int4 raises.*int8 +10.100 +\+1.00%.*10.900"):
            lk.export(
                tiny_run,
                output=tmp_path / "out",
                data=ROWS,
                precision="int8,int4",
                max_perplexity_increase="5%",
            )

        assert perplexities == []
        assert names(tmp_path) == set()

    def test_sensitive_weights_are_kept_higher_before_it_is_refused(
        self, tiny_run, tmp_path, perplexities, monkeypatch
    ):
        quantizing = importlib.import_module("lmkit.export.quantizing.quantize")
        monkeypatch.setattr(quantizing, "SMALLEST", 0)
        perplexities += [10.0, 12.0, 10.4]

        bundle = lk.export(
            tiny_run,
            output=tmp_path / "out",
            data=ROWS,
            precision="int4",
            max_perplexity_increase=0.05,
        )

        found = bundle.manifest.precisions["int4"]
        assert found.perplexity["increase"] == pytest.approx(0.04)
        assert "stay in int8" in found.plan
        assert found.plan in (tmp_path / "out" / "README.md").read_text("utf-8")
        # Float32, which it was compared with, is gone.
        assert names(tmp_path / "out") == LAYOUT | {"model.draft.onnx"}
        assert lk.load(tmp_path / "out").manifest.precision == "int4"

    def test_without_data_it_is_refused_before_any_work(self, tiny_run, tmp_path, no_work):
        with pytest.raises(ExportError, match=r"max_perplexity_increase needs data \(--data\)"):
            lk.export(tiny_run, output=tmp_path / "out", max_perplexity_increase=0.02)

    def test_data_without_answers_cannot_pass(self, tiny_run, tmp_path):
        questions = [{"prompt": row["prompt"]} for row in ROWS]

        with pytest.raises(ExportError, match="cannot measure perplexity: the data has no answers"):
            lk.export(
                tiny_run, output=tmp_path / "out", data=questions, max_perplexity_increase=0.02
            )

        assert names(tmp_path) == set()

    def test_what_is_rounded_has_a_graph_for_drafts(self, tiny_run, tmp_path, monkeypatch):
        quantizing = importlib.import_module("lmkit.export.quantizing.quantize")
        monkeypatch.setattr(quantizing, "SMALLEST", 0)

        lk.export(tiny_run, output=tmp_path / "out", data=ROWS, precision="int4,fp32")

        assert names(tmp_path / "out") == LAYOUT | {
            "model.draft.onnx",
            "model.fp32.onnx",
            "model.fp32.onnx.data",
        }
        smaller = lk.load(tmp_path / "out")
        assert smaller.manifest.graph.draft == "model.draft.onnx"
        assert lk.load(tmp_path / "out", precision="fp32").manifest.graph.draft is None
        session = smaller._session
        state, _ = session.begin([np.arange(5, 12)], [20])
        session.verifier.load(state, np.arange(20, 28))
        assert session.verifier.is_exact

    def test_several_precisions_share_what_is_equal(self, tiny_run, tmp_path):
        """The tiny model's weights are too small to be rounded, so every one of them is."""
        bundle = lk.export(tiny_run, output=tmp_path / "out", data=ROWS, precision="fp32,int4")

        assert names(tmp_path / "out") == LAYOUT | {"model.int4.onnx"}
        assert bundle.manifest.precisions["int4"].greedy_agreement == 1.0
        answers = [lk.load(tmp_path / "out", precision=name)(RECORD) for name in ("fp32", "int4")]
        assert answers[0] == answers[1]


class TestOtherRuns:
    def test_a_chat_stops_at_the_end_of_its_turn_which_is_not_the_tokenizers_eos(self, tmp_path):
        run = train_tiny(tmp_path / "run", task="chat", model=lk.scratch("gpt2", **GPT2))
        trained = lk.train_tokenizer(kind="bpe", vocab_size=320, data=CHATS)
        turn_end = trained.token_to_id("<|im_end|>")

        bundle = lk.export(run, output=tmp_path / "out", data=CHATS)

        tokens, ask = bundle.manifest.tokens, lk.load(tmp_path / "out")
        assert tokens.stop[0] == turn_end
        assert trained.eos_id in tokens.stop
        assert ask.tokenizer.eos_id == turn_end
        config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
        assert config["model"]["eos_token_id"] == list(tokens.stop)
        answer = ask({"messages": CHATS[0]["messages"][:1]})
        assert answer.token_ids[-1] in tokens.stop or answer.finish_reason == "length"

    def test_a_pad_token_that_was_added_is_carried_through(self, tmp_path):
        run = train_tiny(tmp_path / "run", pad="[PAD]")

        bundle = lk.export(run, output=tmp_path / "out", data=ROWS)

        ask = lk.load(tmp_path / "out")
        assert ask.tokenizer.special["pad_token"] == "[PAD]"
        assert bundle.manifest.tokens.pad == ask.tokenizer.token_to_id("[PAD]")
        assert bundle.manifest.graph.vocab_size >= ask.tokenizer.vocab_size
        assert ask.batch(ROWS[:4]) == [ask(row) for row in ROWS[:4]]

    @pytest.mark.usefixtures("quick")
    def test_a_model_without_a_run_keeps_its_authors_stop_ids(self, tiny_run, tmp_path):
        """Llama 3 ends turns with one token and texts with another, and says so in its own file."""
        folder = shutil.copytree(tiny_run, tmp_path / "model")
        (folder / "task.json").unlink()
        tokenizer = lk.Tokenizer.load(folder)
        own = tokenizer.token_to_id("<|im_start|>")
        path = folder / "generation_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "eos_token_id": [tokenizer.eos_id, own]}))

        bundle = lk.export(folder, task="qa", output=tmp_path / "out")

        assert bundle.manifest.tokens.stop == (tokenizer.eos_id, own)

    @pytest.mark.usefixtures("quick")
    def test_rows_longer_than_the_models_context_are_cut_not_a_crash(self, tiny_run, tmp_path):
        task = lk.get_task("qa").evolve(collator=lk.CausalCollator(max_length=1024))
        long = [{"prompt": "날씨 " * 200, "completion": "네"}] * 4

        bundle = lk.export(tiny_run, task=task, output=tmp_path / "out", data=long)

        assert bundle.manifest.task.collator.max_length == CONTEXT_LENGTH
        assert bundle.manifest.golden == ()
        assert bundle.manifest.precisions["fp32"].perplexity["tokens"] > 0

    def test_a_context_shorter_than_the_check_is_checked_as_far_as_it_goes(self, tmp_path):
        run = train_tiny(
            tmp_path / "run",
            model=lk.scratch("gpt2", **{**GPT2, "n_positions": 20}),
            max_steps=2,
        )

        bundle = lk.export(run, output=tmp_path / "out", data=ROWS)

        assert bundle.manifest.precisions["fp32"].parity["longest_past"] <= 20
