"""Keys and values before every prompt: as if the text that left them had been read first.

The prefix is what some tokens leave in the cache, so numpy's model of the whole text is the reference.
"""

import json
import shutil

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import IGNORE, Encoded, prompt_ids
from lmkit.errors import BundleError, PromptTooLong
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.opening import verify
from lmkit.saving.manifest import read_manifest

from .toybundle import (
    CONTEXT_LENGTH,
    HEAD_SIZE,
    KV_HEADS,
    RECORD,
    RECORDS,
    TASK,
    change_manifest,
    sign,
    write_bundle,
)

TOLERANCE = 1e-4  # as in test_session
BEHIND = [70, 3, 41, 9, 22]


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory):
    """Return the folder of a bundle with a prefix; tests only read it."""
    return write_bundle(tmp_path_factory.mktemp("prefixed") / "bundle", behind=BEHIND)


@pytest.fixture
def tampered(prefixed, tmp_path):
    """Return a copy of the bundle to tamper with."""
    return shutil.copytree(prefixed, tmp_path / "bundle")


@pytest.fixture(scope="module")
def ask(prefixed):
    return lk.load(prefixed, threads=1)


@pytest.fixture
def session(prefixed):
    return CausalSession(prefixed / "model.onnx", read_manifest(prefixed).graph, threads=1)


@pytest.fixture
def prompts(ask):
    return [prompt_ids(TASK, record, ask.tokenizer) for record in RECORDS]


@pytest.fixture
def whole(toy):
    """Return numpy's logits behind each token of a text that follows the prefix."""

    def whole(ids):
        return toy.logits(np.array([*BEHIND, *ids]))[len(BEHIND) :]

    return whole


class TestReading:
    @pytest.mark.parametrize("chunk", [1, 3, 1000])
    def test_a_prompt_in_chunks_of_any_size(self, session, whole, prompts, monkeypatch, chunk):
        monkeypatch.setattr("lmkit.runtime.causal_state.CHUNK", chunk)
        prompt = max(prompts, key=len)

        state, logits = session.begin([prompt], [2])
        following = state.step([7])

        np.testing.assert_allclose(logits[0], whole(prompt)[-1], atol=TOLERANCE)
        np.testing.assert_allclose(following[0], whole([*prompt, 7])[-1], atol=TOLERANCE)

    def test_a_prompt_of_one_token(self, session, whole):
        _, logits = session.begin([np.array([9])], [2])

        np.testing.assert_allclose(logits[0], whole([9])[-1], atol=TOLERANCE)

    def test_ragged_rows_as_each_alone_and_then_together(self, session, whole, prompts):
        assert len({len(prompt) for prompt in prompts}) > 2
        ids = [list(prompt) for prompt in prompts]

        state, logits = session.begin(prompts, [30] * len(prompts))
        for _ in range(5):
            for row, scores in zip(ids, logits, strict=True):
                np.testing.assert_allclose(scores, whole(row)[-1], atol=TOLERANCE)
                row.append(int(scores.argmax()))
            logits = state.step([row[-1] for row in ids])

    def test_a_finished_row_stays_as_it_is_while_others_go_on(self, session, whole, prompts):
        state, _ = session.begin(prompts[:2], [9, 9])
        state.step([5, 6])

        for token in (7, 8, 9):
            logits = state.step([None, token])

        np.testing.assert_allclose(logits[1], whole([*prompts[1], 6, 7, 8, 9])[-1], atol=TOLERANCE)

    def test_several_tokens_at_once_and_back(self, session, whole, prompts):
        state, _ = session.begin(prompts[:2], [9, 9])
        n = len(prompts[1])
        state.extend(1, np.array([5, 6, 7]))

        state.rewind(1, n + 1)
        logits = state.extend(1, np.array([9, 4]))

        np.testing.assert_allclose(logits, whole([*prompts[1], 5, 9, 4])[-2:], atol=TOLERANCE)
        assert state.length(1) == n + 3

    def test_two_states_do_not_share_a_buffer(self, session, whole, prompts):
        one, _ = session.begin(prompts[:1], [9])
        session.begin(prompts[1:2], [9])[0].step([6])

        np.testing.assert_allclose(one.step([5])[0], whole([*prompts[0], 5])[-1], atol=TOLERANCE)

    def test_the_buffer_is_as_long_as_the_request_and_the_prefix(self, session, prompts):
        state, _ = session.begin(prompts[:2], [9, 9])

        longest = len(BEHIND) + max(map(len, prompts[:2])) + 9
        assert state._buffers["0.value"].shape() == [2, KV_HEADS, longest, HEAD_SIZE]


def test_forced_logits_predict_each_answer_token_and_the_next(session, whole, prompts):
    for prompt in prompts:
        logits = session.forced(prompt, np.array([5, 6, 7]))

        expected = whole([*prompt, 5, 6, 7])[len(prompt) - 1 :]
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_log_probabilities_are_of_learned_tokens_in_a_ragged_batch(session, whole, prompts):
    labels = [np.where(np.arange(len(p)) % 2, p, IGNORE) for p in prompts]

    found = session.log_probs([Encoded(*row) for row in zip(prompts, labels, strict=True)])

    for scores, prompt in zip(found, prompts, strict=True):
        logits = whole(prompt).astype(np.float64)
        every = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = [place for place in range(1, len(prompt)) if place % 2]
        expected = [every[place - 1, prompt[place]] for place in at]
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


class TestAnswering:
    def test_it_writes_what_numpy_writes_behind_the_prefix(self, ask, toy, prompts):
        found = ask.greedy(prompts, 8)

        for ids, prompt in zip(found, prompts, strict=True):
            expected = toy.greedy(np.array([*BEHIND, *prompt]), 8)
            assert ids == expected[: len(ids)]
            assert len(ids) == 8 or ids[-1] in ask.manifest.tokens.stop

    def test_it_is_another_answer_than_without(self, ask, bundle):
        plain = lk.load(bundle, threads=1)

        assert [a.text for a in ask.batch(RECORDS)] != [a.text for a in plain.batch(RECORDS)]

    def test_a_batch_and_a_stream_are_single_calls(self, ask):
        singles = [ask(record, temperature=0) for record in RECORDS]

        assert ask.batch(RECORDS, temperature=0) == singles
        assert "".join(ask.stream(RECORD, temperature=0)) == singles[0].text

    def test_usage_counts_the_prompts_own_tokens(self, ask, prompts):
        assert ask(RECORD).usage.prompt_tokens == len(prompts[0])

    def test_the_context_is_what_the_prefix_leaves_of_it(self, ask, whole):
        most = CONTEXT_LENGTH - len(BEHIND)
        longest = {"prompt": "b" * (most - len(ask.prompt({"prompt": ""})) - 1)}

        answer = ask(longest, max_new_tokens=9, temperature=0)

        assert len(answer.token_ids) == 1
        assert answer.token_ids[0] == whole(ask.prompt(longest))[-1].argmax()
        with pytest.raises(PromptTooLong, match=f"holds {most},"):
            ask({"prompt": longest["prompt"] + "b"})

    def test_verify_answers_the_golden_prompts_behind_it(self, prefixed):
        golden = read_manifest(prefixed).golden[0]

        checks = verify(prefixed)

        assert f"{len(golden.token_ids)} greedy tokens are the same" in checks["golden prompts"]
        assert "prefix.npy" in read_manifest(prefixed).files


class TestADamagedPrefix:
    def test_is_refused_by_its_checksum(self, tampered):
        raw = bytearray((tampered / "prefix.npy").read_bytes())
        raw[-1] ^= 1
        (tampered / "prefix.npy").write_bytes(raw)

        with pytest.raises(BundleError, match=r"'prefix.npy' is not what was written"):
            lk.load(tampered)

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((1, 2, KV_HEADS, 4, HEAD_SIZE), np.float32), r"is float32 \[1, 2, 2, 4, 8\]"),
            (np.zeros((2, KV_HEADS, 5, HEAD_SIZE), np.float32), r"is float32 \[2, 2, 5, 8\]"),
            (np.zeros((1, 2, KV_HEADS, 5, HEAD_SIZE), np.float64), "is float64"),
            (np.array([{"a": 1}], dtype=object), "cannot be read: Object arrays cannot be loaded"),
        ],
        ids=["too short", "an axis less", "doubles", "a pickle"],
    )
    def test_of_another_form_is_refused_and_no_pickle_is_read(self, tampered, array, words):
        np.save(tampered / "prefix.npy", array, allow_pickle=True)
        sign(tampered)

        with pytest.raises(BundleError, match=rf"the prefix .*{words}"):
            lk.load(tampered)

    def test_that_is_cut_off_is_refused(self, tampered):
        raw = (tampered / "prefix.npy").read_bytes()
        (tampered / "prefix.npy").write_bytes(raw[: len(raw) // 2])
        sign(tampered)

        with pytest.raises(BundleError, match=r"the prefix .*prefix\.npy' cannot be read"):
            lk.load(tampered)

    @pytest.mark.parametrize("name", ["../prefix.npy", "other.npy"])
    def test_without_a_checksum_is_refused_wherever_it_lies(self, tampered, name):
        shutil.copy(tampered / "prefix.npy", tampered / name)
        change_manifest(tampered, lambda data: data["graph"]["prefix"].update(file=name))

        with pytest.raises(BundleError, match=rf"has no checksum for '{name}', its prefix"):
            lk.load(tampered)

    @pytest.mark.parametrize("count", [0, -5])
    def test_of_no_tokens_is_refused(self, tampered, count):
        change_manifest(tampered, lambda data: data["graph"]["prefix"].update(n_tokens=count))

        with pytest.raises(BundleError, match="the prefix"):
            lk.load(tampered)


def test_a_bundle_from_before_there_were_prefixes_is_read(copied, bundle):
    data = json.loads((copied / "lmkit.json").read_text("utf-8"))
    assert data["graph"]["prefix"] is None

    change_manifest(copied, lambda data: data["graph"].pop("prefix"))

    assert read_manifest(copied).graph.prefix is None
    assert lk.load(copied)(RECORD, temperature=0) == lk.load(bundle)(RECORD, temperature=0)
