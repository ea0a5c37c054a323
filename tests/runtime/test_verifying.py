"""Drafts of a model whose products round: read by a graph of their own, as single steps would."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.errors import BundleError, ModelError
from lmkit.runtime import verifying
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.opening import verify
from lmkit.runtime.pace import Pace
from lmkit.saving.precisions import DRAFT_FILE, DRAFT_TOKENS

from .toybundle import change_manifest, sign, write_bundle

ir = pytest.importorskip("onnx_ir")

from lmkit.export.chaining import chained  # noqa: E402
from lmkit.export.external import Weights  # noqa: E402
from lmkit.export.quantizing.blocks import Format  # noqa: E402
from lmkit.export.quantizing.kernels import BlockKernel  # noqa: E402
from lmkit.export.quantizing.quantize import rewritten  # noqa: E402

PLAIN = {"prompt_lookup_num_tokens": 0}
REPEATING = [{"prompt": text} for text in ("abcabcabc", "네네네", "one, one, on", "xyxyxy zxyx")]


class Eager(Pace):
    """Guesses wherever anything was there before, a number of tokens that changes."""

    def __init__(self):
        super().__init__()
        self.rounding = float("inf")
        self.n_drafts = 0

    def best_count(self, chance, most, read=None):
        self.n_drafts += 1
        return 1 + self.n_drafts % min(9, most)


@pytest.fixture(scope="module")
def rounding(tmp_path_factory):
    """Return the toy bundle with its products in 4 bits, and a graph for drafts of those."""
    folder = write_bundle(tmp_path_factory.mktemp("toy") / "bundle")
    kernel = BlockKernel(format=Format(bits=4, block=32))
    smaller = rewritten(ir.load(folder / "model.onnx"), lambda weight: kernel)
    Weights(folder).save({"model.int4.onnx": smaller}, "model.int4.onnx.data")
    ir.save(chained(smaller), folder / "model.int4.draft.onnx")
    files = {"model.onnx": "model.int4.onnx", DRAFT_FILE: "model.int4.draft.onnx"}
    figures = {"files": files, "golden": [[]]}
    change_manifest(folder, lambda data: data["precisions"].update(int4=figures))
    sign(folder)
    return folder


@pytest.fixture
def ask(rounding, monkeypatch):
    """Return the model; it drafts wherever it can, from the start."""
    monkeypatch.setattr(verifying, "_WORTH_LOADING", 0.0)
    ask = lk.load(rounding, precision="int4", threads=1)
    monkeypatch.setattr(ask._session, "pace", Eager())
    return ask


@pytest.fixture
def n_read(monkeypatch):
    """Return how many tokens each draft had that was read, the last written one included."""
    found = []
    verify = CausalState.verify
    monkeypatch.setattr(
        CausalState,
        "verify",
        lambda state, row, ids, onnx: found.append(len(ids)) or verify(state, row, ids, onnx),
    )
    return found


def test_the_graph_reads_what_single_steps_read_to_the_bit(ask):
    rng = np.random.default_rng(0)
    state = CausalState(ask._session, 1, 60)
    verifier = ask._session.verifier
    state.read_in_chunks(rng.integers(0, 200, 9))

    verifier.load(state, rng.integers(0, 200, DRAFT_TOKENS))

    assert verifier.is_exact
    assert state.length(0) == 9
    for count in (1, 3, DRAFT_TOKENS):
        ids, held = rng.integers(0, 200, count), state.length(0)
        together = state.verify(0, ids, verifier.onnx).copy()
        kept = [array[0, :, : held + count].copy() for array in state._kept.arrays.values()]
        state.rewind(0, held)
        alone = np.stack([state.step([int(token)])[0].copy() for token in ids])
        assert np.array_equal(together, alone)
        for part, array in zip(kept, state._kept.arrays.values(), strict=True):
            assert np.array_equal(part, array[0, :, : held + count])


@pytest.mark.parametrize("record", REPEATING, ids=lambda record: record["prompt"])
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 3}])
def test_the_text_is_the_plain_loops(ask, n_read, record, options):
    options = {"max_new_tokens": 60, **options}

    plain = ask(record, **options, **PLAIN)
    assert not n_read

    assert ask(record, **options) == plain
    assert ask._session.verifier.is_exact is not False


def test_drafts_are_read_and_never_beyond_the_room(ask, n_read):
    for most in (1, 7, 9, *range(40, 56)):
        plain = ask(REPEATING[0], max_new_tokens=most, **PLAIN)
        assert ask(REPEATING[0], max_new_tokens=most) == plain
    assert n_read
    assert max(n_read) <= DRAFT_TOKENS


def test_where_one_bit_differs_there_are_no_drafts(ask, n_read, monkeypatch):
    step = CausalState.extend
    monkeypatch.setattr(
        CausalState,
        "extend",
        lambda state, row, ids, **options: np.nextafter(step(state, row, ids, **options), np.inf),
    )

    answer = ask(REPEATING[0], max_new_tokens=60)

    assert ask._session.verifier.is_exact is False
    assert ask._session.verifier.onnx is None
    assert len(n_read) == 1  # to see that
    assert answer == ask(REPEATING[0], max_new_tokens=60, **PLAIN)


def test_it_is_loaded_when_drafts_would_have_saved_what_that_costs(ask, n_read, monkeypatch):
    monkeypatch.setattr(verifying, "_WORTH_LOADING", 60.0)
    verifier = ask._session.verifier

    answer = ask(REPEATING[0], max_new_tokens=60)

    assert verifier.is_exact is None
    assert not n_read
    verifier.missed = 1000.0
    assert ask(REPEATING[0], max_new_tokens=60) == answer
    assert verifier.is_exact
    assert n_read


def test_large_weights_are_not_held_twice(rounding, monkeypatch):
    monkeypatch.setattr("lmkit.runtime.opening.MOST_BYTES", -1)

    ask = lk.load(rounding, precision="int4", threads=1)

    assert ask._session.verifier is None
    assert ask(REPEATING[0], max_new_tokens=60).text


def test_a_graph_that_onnxruntime_cannot_load_leaves_the_plain_loop(ask, n_read, tmp_path):
    verifier = ask._session.verifier
    verifier._file = tmp_path / "nothing.onnx"

    assert ask(REPEATING[0], max_new_tokens=60) == ask(REPEATING[0], max_new_tokens=60, **PLAIN)
    assert verifier.is_exact is False
    assert not n_read


def test_a_graph_that_loads_and_does_not_run_leaves_the_plain_loop(ask, monkeypatch):
    def failing(state, row, ids, onnx):
        raise ModelError("onnxruntime cannot run the model")

    monkeypatch.setattr(CausalState, "verify", failing)

    assert ask(REPEATING[0], max_new_tokens=60) == ask(REPEATING[0], max_new_tokens=60, **PLAIN)
    assert ask._session.verifier.is_exact is False


def test_a_bundle_is_verified_with_what_checks_its_drafts(rounding, monkeypatch):
    assert verify(rounding)["drafts"] == "read as single steps are, to the bit (int4)"

    monkeypatch.setattr(CausalState, "reads_alike", lambda *given: False)

    assert verify(rounding)["drafts"] == "none here, since some bit would differ (int4)"


def test_its_file_must_be_one_of_the_bundles(rounding):
    data = (rounding / "lmkit.json").read_text("utf-8")
    try:
        change_manifest(rounding, lambda data: data["files"].pop("model.int4.draft.onnx"))
        with pytest.raises(BundleError, match=r"no checksum for 'model.int4.draft.onnx'"):
            lk.load(rounding, precision="int4")
    finally:
        (rounding / "lmkit.json").write_text(data, "utf-8")


def test_a_graph_without_attention_has_none(rounding):
    model = ir.load(rounding / "model.onnx")
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.op_type = "Attention"

    assert chained(model) is None
