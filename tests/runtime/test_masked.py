"""A masked bundle answers without torch, and tells when it is not what it was."""

import shutil

import attrs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from toys import wordpiece

import lmkit as lk
from lmkit.answering import Answerer
from lmkit.encoding import prompt_ids
from lmkit.errors import BundleError, RecordError, TaskError
from lmkit.runtime.masked import MaskedSession, MaskFiller
from lmkit.runtime.opening import verify
from lmkit.saving.manifest import read_manifest

from .toybundle import change_manifest, sign
from .toymasked import GRAPH, RECORD, TASK, toy_logits, write_masked_bundle

TEXTS = ["[MASK]", "a [MASK] film, good!", "영화는 [MASK]", RECORD["text"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_masked_bundle(tmp_path_factory.mktemp("masked") / "bundle")


@pytest.fixture(scope="module")
def fill(folder):
    return lk.load(folder, threads=1)


@pytest.fixture
def tampered(folder, tmp_path):
    """Return a copy to tamper with."""
    return shutil.copytree(folder, tmp_path / "copy")


class TestFilling:
    @pytest.mark.parametrize("text", TEXTS)
    def test_gives_the_fills_of_the_graph_s_logits(self, text, fill):
        tokenizer = wordpiece()
        ids = prompt_ids(TASK, {"text": text}, tokenizer)
        answer = fill({"text": text})
        logits = toy_logits(ids)

        assert answer.token_ids == tuple(logits[ids == tokenizer.mask_id].argmax(axis=1))
        wanted = TASK.decoder.fill(ids, logits, tokenizer)
        flat = [[wanted]] if isinstance(wanted[0], dict) else [wanted]
        found = [[answer.value]] if isinstance(wanted[0], dict) else [answer.value]
        for ours, theirs in zip(found[0], flat[0], strict=True):
            assert [one["token"] for one in ours] == [one["token"] for one in theirs]
            assert [one["score"] for one in ours] == pytest.approx(
                [one["score"] for one in theirs], rel=1e-4
            )

    def test_in_a_padded_batch_gives_what_single_calls_give(self, fill):
        records = [{"text": text} for text in TEXTS]
        together = fill.batch(records, batch_size=len(records))

        for one, other in zip(together, [fill(record) for record in records], strict=True):
            assert (one.text, one.token_ids, one.usage) == (
                other.text,
                other.token_ids,
                other.usage,
            )

    def test_needs_a_mask_in_the_text(self, fill):
        with pytest.raises(RecordError, match=r"put \[MASK\] where a token is wanted"):
            fill({"text": "영화는 좋았다"})

    def test_takes_no_generation_options(self, fill):
        with pytest.raises(TaskError, match=r"temperature cannot be set"):
            fill(RECORD, temperature=0)

    def test_is_an_answerer_with_the_bundle_s_facts(self, fill, folder):
        assert isinstance(fill, Answerer)
        assert isinstance(fill, MaskFiller)
        assert fill.task == TASK
        assert fill.path == folder
        assert fill.manifest.graph == GRAPH
        assert fill.tokenizer.mask_id == 4

    def test_measures_the_loss_of_hidden_tokens(self, fill, folder):
        rows = [{"text": "영화는 정말 좋았다!"}, {"text": "a good film"}]
        figures = lk.evaluate(folder, data=rows)
        measured = TASK.collator.measured(lk.encode(TASK, rows, fill.tokenizer), fill.tokenizer)
        losses = []
        for row in measured:
            logits = toy_logits(row.input_ids).astype(float)
            at = np.flatnonzero(row.labels >= 0)
            picked = logits[at, row.labels[at]]
            losses += (np.log(np.exp(logits[at]).sum(axis=1)) - picked).tolist()

        assert figures["tokens"] == len(losses)
        assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert figures == lk.evaluate(folder, data=rows)


class TestItsManifest:
    def test_comes_back_as_it_was_written(self, folder):
        manifest = read_manifest(folder)

        assert manifest.graph == GRAPH
        assert manifest.tokens.eos is None

    def test_verify_counts_fills(self, folder):
        assert verify(folder)["golden prompts"] == (
            "1 encode to the same ids, and 2 fills are the same"
        )

    def test_another_fill_than_at_export_is_told(self, tampered):
        graph = onnx.load(tampered / "model.onnx")
        for tensor in graph.graph.initializer:
            if tensor.name == "own":
                changed = -numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(changed, "own"))
        onnx.save(graph, tampered / "model.onnx")
        sign(tampered)

        with pytest.raises(BundleError, match=r"does not behave .* is answered with the tokens"):
            lk.load(tampered)
        lk.load(tampered, verify=False)

    def test_another_prompt_than_at_export_is_told(self, tampered):
        change_manifest(tampered, lambda data: data["golden"][0]["prompt_ids"].append(3))

        with pytest.raises(BundleError, match=r"the prompt for .* encodes to"):
            lk.load(tampered, verify=False)

    def test_a_wrong_size_is_told(self, folder):
        with pytest.raises(BundleError, match="vocab_size is written down as 9"):
            MaskedSession(folder / "model.onnx", attrs.evolve(GRAPH, vocab_size=9))
