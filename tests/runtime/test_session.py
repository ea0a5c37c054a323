"""The graph's contract, against the same model written in numpy."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest

from lmkit.encoding import IGNORE, Encoded, prompt_ids
from lmkit.errors import BundleError, TaskError, UnknownName
from lmkit.runtime.causal import CausalSession
from lmkit.saving.manifest import read_manifest

from .toybundle import HEAD_SIZE, KV_HEADS, RECORDS, TASK, change_manifest, write_bundle

# Sums of at most 64 float32 products on logits of size ten, added up in another order.
TOLERANCE = 1e-4


@pytest.fixture
def session(bundle):
    return CausalSession(bundle / "model.onnx", read_manifest(bundle).graph, threads=1)


@pytest.fixture
def prompts(ask):
    return [prompt_ids(TASK, record, ask.tokenizer) for record in RECORDS]


def test_a_prompt_is_read_as_numpy_reads_it(session, toy, prompts):
    _, logits = session.begin(prompts[:1], [40])

    np.testing.assert_allclose(logits[0], toy.logits(prompts[0])[-1], atol=TOLERANCE)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_prompt_is_read_in_chunks_of_any_size(session, toy, prompts, monkeypatch, chunk):
    monkeypatch.setattr("lmkit.runtime.causal_state.CHUNK", chunk)
    prompt = max(prompts, key=len)

    state, logits = session.begin([prompt], [2])
    following = state.step([7])

    longer = np.append(prompt, 7)
    np.testing.assert_allclose(logits[0], toy.logits(prompt)[-1], atol=TOLERANCE)
    np.testing.assert_allclose(following[0], toy.logits(longer)[-1], atol=TOLERANCE)


def test_ragged_rows_are_read_and_continued_as_each_alone(session, toy, prompts):
    assert len({len(prompt) for prompt in prompts}) > 2
    ids = [list(prompt) for prompt in prompts]

    state, logits = session.begin(prompts, [40] * len(prompts))
    for _ in range(5):
        for row, scores in zip(ids, logits, strict=True):
            np.testing.assert_allclose(scores, toy.logits(np.array(row))[-1], atol=TOLERANCE)
            row.append(int(scores.argmax()))
        logits = state.step([row[-1] for row in ids])


def test_forced_logits_predict_each_answer_token_and_the_next(session, toy, prompts):
    for prompt in prompts:
        logits = session.forced(prompt, np.array([5, 6, 7]))

        whole = np.array([*prompt, 5, 6, 7])
        np.testing.assert_allclose(logits, toy.logits(whole)[len(prompt) - 1 :], atol=TOLERANCE)


def test_log_probabilities_are_of_learned_tokens_in_a_ragged_batch(session, toy, prompts):
    labels = [np.where(np.arange(len(p)) % 2, p, IGNORE) for p in prompts]

    found = session.log_probs([Encoded(*row) for row in zip(prompts, labels, strict=True)])

    for scores, prompt in zip(found, prompts, strict=True):
        logits = toy.logits(prompt).astype(np.float64)
        every = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = [place for place in range(1, len(prompt)) if place % 2]
        expected = [every[place - 1, prompt[place]] for place in at]
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


class TestRowsThatShareAPrompt:
    """Such as a record's labels."""

    ANSWERS = ([5, 6], [7, 6, 5], [9], [5, IGNORE, 8])

    @pytest.fixture
    def rows(self, prompts):
        found = []
        for prompt in prompts[:3]:
            for answer in self.ANSWERS:
                ids = np.array([*prompt, *(4 if token == IGNORE else token for token in answer)])
                found.append(Encoded(ids, np.array([*[IGNORE] * len(prompt), *answer])))
        return found

    @pytest.fixture
    def read(self, session, monkeypatch):
        """Return how many tokens were read, prompt by prompt."""
        lengths = []
        begin = session.begin
        monkeypatch.setattr(
            session,
            "begin",
            lambda *given: lengths.append([len(p) for p in given[0]]) or begin(*given),
        )
        return lengths

    def test_are_scored_as_each_alone(self, session, toy, rows, read):
        found = session.log_probs(rows)

        assert len(read) == 1
        for row, scores in zip(rows, found, strict=True):
            logits = toy.logits(row.input_ids).astype(np.float64)
            every = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            at = np.flatnonzero(row.labels != IGNORE)
            np.testing.assert_allclose(scores, every[at - 1, row.labels[at]], atol=TOLERANCE)

    def test_read_it_once(self, session, prompts, rows, read):
        session.log_probs(rows[::-1])

        assert read == [[len(prompt) for prompt in prompts[2::-1]]]

    def test_are_scored_the_same_in_small_parts(self, session, rows, read, monkeypatch):
        whole = session.log_probs(rows)
        monkeypatch.setattr("lmkit.answering.logits.HELD_FLOATS", 1)

        for ours, theirs in zip(session.log_probs(rows), whole, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
        assert len(read) == 1 + len(rows)

    def test_are_read_whole_where_stepping_costs_more(self, session, prompts, read):
        ids = [np.append(prompts[0], [last, *[6] * 20]) for last in (4, 5)]
        labels = np.full(len(ids[0]), IGNORE)
        labels[-21:] = 6

        session.log_probs([Encoded(row, np.where(labels == 6, row, IGNORE)) for row in ids])

        assert read == []


def bits(state):
    """Return a copy of a layer's keys as int32 [B, KV, T, D]: what is not filled may be no number."""
    return state._buffers["0.key"].numpy().view(np.int32).copy()


def test_a_finished_row_stays_as_it_is_while_others_go_on(session, toy, prompts):
    state, _ = session.begin(prompts[:2], [40, 40])
    state.step([5, 6])
    before = bits(state)[0]

    for token in (7, 8, 9):
        logits = state.step([None, token])

    assert np.array_equal(bits(state)[0], before)
    text = np.array([*prompts[1], 6, 7, 8, 9])
    np.testing.assert_allclose(logits[1], toy.logits(text)[-1], atol=TOLERANCE)


class TestSeveralTokensAtOnce:
    """What drafts are verified with: a row goes on by some tokens, and back where they were wrong."""

    def test_have_the_logits_of_a_token_at_a_time(self, session, toy, prompts):
        state, _ = session.begin(prompts, [9] * 4)

        found = state.extend(1, np.array([5, 6, 7]))

        whole = toy.logits(np.array([*prompts[1], 5, 6, 7]))
        np.testing.assert_allclose(found, whole[-3:], atol=TOLERANCE)
        assert state.length(1) == len(prompts[1]) + 3

    def test_leave_the_other_rows_as_they_are(self, session, toy, prompts):
        state, _ = session.begin(prompts, [9] * 4)
        state.extend(1, np.array([5, 6, 7]))

        logits = state.step([8, 8, None, 8])

        for row in (0, 3):
            text = np.array([*prompts[row], 8])
            np.testing.assert_allclose(logits[row], toy.logits(text)[-1], atol=TOLERANCE)
        text = np.array([*prompts[1], 5, 6, 7, 8])
        np.testing.assert_allclose(logits[1], toy.logits(text)[-1], atol=TOLERANCE)
        np.testing.assert_allclose(logits[2], toy.logits(prompts[2])[-1], atol=TOLERANCE)

    @pytest.mark.parametrize("kept", [0, 1, 2, 3])
    def test_are_taken_back_as_if_they_had_never_come(self, session, toy, prompts, kept):
        state, _ = session.begin(prompts, [9] * 4)
        state.extend(1, np.array([5, 6, 7]))

        state.rewind(1, len(prompts[1]) + kept)
        resting = state.step([8, None, 8, 8])[1].copy()
        logits = state.extend(1, np.array([9, 4]))

        text = np.array([*prompts[1], *[5, 6, 7][:kept]])
        np.testing.assert_allclose(resting, toy.logits(text)[-1], atol=TOLERANCE)
        text = np.array([*text, 9, 4])
        np.testing.assert_allclose(logits, toy.logits(text)[-2:], atol=TOLERANCE)

    def test_go_where_there_is_room(self, session, prompts):
        state, _ = session.begin(prompts[:1], [3])

        for count in (0, 4):
            with pytest.raises(ValueError, match=f"{count} tokens; expected 1 to 3"):
                state.extend(0, np.full(count, 5))

        assert state.length(0) == len(prompts[0])

    def test_are_no_more_than_what_a_row_holds(self, session, prompts):
        state, _ = session.begin(prompts[:1], [3])
        n = len(prompts[0])

        for length in (0, n + 1):
            with pytest.raises(ValueError, match=f"to {length} tokens; expected 1 to {n}"):
                state.rewind(0, length)


@pytest.fixture(scope="module", params=[True, False], ids=["last", "all"])
def either(request, tmp_path_factory):
    """Return a session whose graph can leave out the logits that nobody asks for, or cannot."""
    folder = write_bundle(tmp_path_factory.mktemp("either") / "b", keeps_last=request.param)
    return CausalSession(folder / "model.onnx", read_manifest(folder).graph, threads=1)


class TestLogitsThatNobodyAsksFor:
    """A prompt's tokens but the last need none: a graph that can leave them out is told to."""

    @pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [5, 1, 9, 4], [30, 2, 30, 29, 1, 40]])
    @pytest.mark.parametrize("chunk", [4, 64, 512])
    def test_are_not_missed(self, either, toy, monkeypatch, lengths, chunk):
        monkeypatch.setattr("lmkit.runtime.causal_state.CHUNK", chunk)
        rng = np.random.default_rng(0)
        rows = [rng.integers(5, 200, length) for length in lengths]

        state, logits = either.begin(rows, [2] * len(rows))
        after = state.step([7] * len(rows))

        for row, ids in enumerate(rows):
            np.testing.assert_allclose(logits[row], toy.logits(ids)[-1], atol=TOLERANCE)
            np.testing.assert_allclose(
                after[row], toy.logits(np.append(ids, 7))[-1], atol=TOLERANCE
            )

    def test_are_computed_where_they_are_needed(self, either, toy, prompts):
        whole = either.forced(prompts[0], np.array([5, 6]))
        state, _ = either.begin(prompts[:1], [9])
        several = state.extend(0, np.array([5, 6]))

        expected = toy.logits(np.array([*prompts[0], 5, 6]))
        np.testing.assert_allclose(whole, expected[-3:], atol=TOLERANCE)
        np.testing.assert_allclose(several, expected[-2:], atol=TOLERANCE)

    def test_take_no_memory(self, either, prompts):
        state, _ = either.begin([np.full(50, 5)], [9])

        assert len(state._desk) == (1 if either.keeps_last else 50)


class TestTheBuffer:
    """Keys and values are written where they are read: one buffer, never moved, never copied."""

    def test_it_is_as_long_as_the_request(self, session, prompts):
        state, _ = session.begin(prompts[:2], [9, 9])

        longest = max(map(len, prompts[:2])) + 9
        assert state._buffers["0.value"].shape() == [2, KV_HEADS, longest, HEAD_SIZE]

    def test_a_step_writes_one_place_and_leaves_the_rest(self, session, prompts):
        state, _ = session.begin(prompts[:1], [40])
        n = len(prompts[0])
        before = bits(state)

        state.step([5])

        after = bits(state)
        assert before[:, :, :n].all()
        assert np.array_equal(np.delete(after, n, axis=2), np.delete(before, n, axis=2))
        assert after[:, :, n].any()

    @pytest.mark.parametrize("remains", [np.nan, 1e30])
    def test_what_was_in_it_before_does_not_matter(self, session, toy, prompts, remains):
        session.pool.take(1 << 16, session).release()
        session.pool._idle[0][:] = remains

        state, logits = session.begin(prompts, [9] * 4)
        state.extend(1, np.array([5, 6]))
        after = state.step([7, 7, None, 7])

        assert session.pool.used_bytes == 1 << 18
        np.testing.assert_allclose(logits[2], toy.logits(prompts[2])[-1], atol=TOLERANCE)
        text = np.array([*prompts[1], 5, 6, 7])
        np.testing.assert_allclose(after[1], toy.logits(text)[-1], atol=TOLERANCE)

    def test_nothing_moves_from_step_to_step(self, session, prompts):
        state, _ = session.begin(prompts, [40] * len(prompts))
        buffers = {name: buffer.data_ptr() for name, buffer in state._buffers.items()}
        first = state.step([5] * len(prompts))
        bound = state._step

        second = state.step([6] * len(prompts))

        assert {name: buffer.data_ptr() for name, buffer in state._buffers.items()} == buffers
        assert np.shares_memory(first, second)
        assert state._step is bound


class TestReordering:
    """Rows become copies of rows, and each goes on as the text that it then is."""

    @pytest.mark.parametrize(
        "rows",
        [
            [1, 0, 2, 3],
            [3, 0, 1, 2],
            [2, 2, 2, 2],
            [0, 1, 2, 3],
            [3, 1],
            [2],
            [1, 1, 0, 0, 3, 3],
            [3, 2, 1, 0, 0, 0, 0, 1],
        ],
    )
    def test_each_row_goes_on_as_the_one_it_copies(self, session, toy, prompts, rows):
        state, _ = session.begin(prompts, [5] * 4)
        state.step([5, 6, 7, 8])
        texts = [[*prompt, token] for prompt, token in zip(prompts, (5, 6, 7, 8), strict=True)]

        for turn in range(2):
            state.reorder(rows if turn == 0 else range(len(rows)))
            texts = [texts[row] for row in rows] if turn == 0 else texts
            tokens = [(9 + turn + row) % 20 for row in range(len(rows))]
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
            logits = state.step(tokens)

            for text, row in zip(texts, logits, strict=True):
                np.testing.assert_allclose(row, toy.logits(np.array(text))[-1], atol=TOLERANCE)

    def test_a_finished_row_stays_finished(self, session, toy, prompts):
        state, _ = session.begin(prompts[:3], [5] * 3)
        state.step([5, 6, 7])
        state.reorder([2, 1])

        state.step([None, 8])
        logits = state.step([9, 8])

        text = np.array([*prompts[2], 7, 9])
        np.testing.assert_allclose(logits[0], toy.logits(text)[-1], atol=TOLERANCE)

    def test_in_place_only_what_is_filled_and_moves_is_written(self, session, prompts):
        state, _ = session.begin(prompts, [5] * 4)
        before = bits(state)
        filled = max(map(len, prompts))
        bound = state._step

        state.reorder([0, 1, 0, 3])

        after = bits(state)
        assert np.array_equal(after[[0, 1, 3]], before[[0, 1, 3]])
        assert np.array_equal(after[2, :, :filled], before[0, :, :filled])
        assert np.array_equal(after[2, :, filled:], before[2, :, filled:])
        assert state._step is bound


def test_two_states_do_not_share_a_buffer(session, toy, prompts):
    one, _ = session.begin(prompts[:1], [40])
    session.begin(prompts[1:2], [40])

    logits = one.step([5])

    text = np.array([*prompts[0], 5])
    np.testing.assert_allclose(logits[0], toy.logits(text)[-1], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("side", "name", "key", "content"),
    [
        ("inputs", "past_key_values.0.key", "name", "past_key_values.1.key"),
        ("inputs", "input_ids", "dtype", "int32"),
        ("inputs", "past_key_values.0.value", "axes", ["batch_size", 9, "past", 8]),
        ("outputs", "present.0.key", "name", "present.1.key"),
        ("outputs", "logits", "axes", ["batch_size", "sequence_length", 99]),
    ],
)
def test_a_graph_other_than_the_one_written_down_is_refused(copied, side, name, key, content):
    def change(data):
        port = next(port for port in data["graph"][side] if port["name"] == name)
        port[key] = content

    change_manifest(copied, change)

    named = content if key == "name" else name
    with pytest.raises(BundleError, match=rf"model\.onnx.*'{named}'"):
        CausalSession(copied / "model.onnx", read_manifest(copied).graph)


@pytest.mark.parametrize("field", ["n_layers", "n_kv_heads", "head_size", "vocab_size"])
def test_sizes_that_contradict_the_graph_are_refused(copied, field):
    change_manifest(copied, lambda data: data["graph"].update({field: 3}))

    with pytest.raises(BundleError, match=field):
        CausalSession(copied / "model.onnx", read_manifest(copied).graph)


def test_a_file_that_is_no_graph_is_refused(tmp_path, bundle):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")

    with pytest.raises(BundleError, match="onnxruntime cannot load") as caught:
        CausalSession(tmp_path / "model.onnx", read_manifest(bundle).graph)
    assert "--upgrade" not in str(caught.value)


def test_a_node_that_this_onnxruntime_does_not_know_says_what_to_upgrade(tmp_path, bundle):
    raw = (bundle / "model.onnx").read_bytes()
    assert raw.count(b"GroupQueryAttention")
    (tmp_path / "model.onnx").write_bytes(
        raw.replace(b"GroupQueryAttention", b"FutureQueryAttentio")
    )
    shutil.copy(bundle / "model.onnx.data", tmp_path)

    with pytest.raises(BundleError, match=rf"{ort.__version__}, which may be too old.*--upgrade"):
        CausalSession(tmp_path / "model.onnx", read_manifest(bundle).graph)


def test_an_execution_provider_that_is_not_there_is_named(bundle):
    """onnxruntime itself would print to standard output and fall back to the CPU."""
    with pytest.raises(UnknownName, match=r"'NoSuchProvider'\n.*CPUExecutionProvider"):
        CausalSession(
            bundle / "model.onnx", read_manifest(bundle).graph, providers=["NoSuchProvider"]
        )


@pytest.mark.parametrize(
    "providers", ["CPUExecutionProvider", [("CPUExecutionProvider", {"use_arena": "0"})]]
)
def test_a_provider_may_stand_alone_and_may_have_options(bundle, providers):
    graph = read_manifest(bundle).graph

    session = CausalSession(bundle / "model.onnx", graph, providers=providers)

    assert session.onnx.get_providers() == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_named_with_its_options_too(bundle):
    with pytest.raises(UnknownName, match=r"'NoSuchProvider'\n"):
        CausalSession(
            bundle / "model.onnx", read_manifest(bundle).graph, providers=[("NoSuchProvider", {})]
        )


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_at_all_are_refused(bundle, threads):
    with pytest.raises(TaskError, match=f"threads is {threads}; expected 1 or more"):
        CausalSession(bundle / "model.onnx", read_manifest(bundle).graph, threads=threads)


def test_graphs_opened_by_several_threads_all_have_whole_attention(bundle, monkeypatch):
    switch = "ORT_GQA_DISABLE_FLASH_ATTENTION"
    monkeypatch.delenv(switch, raising=False)
    opened, seen, lasting = ort.InferenceSession, [], iter([0.05, 0.15, 0.1])

    def opening(*arguments, **options):
        time.sleep(next(lasting))
        seen.append(os.environ.get(switch))
        return opened(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", opening)
    graph = read_manifest(bundle).graph

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: CausalSession(bundle / "model.onnx", graph), range(3)))

    assert seen == ["1", "1", "1"]
    assert switch not in os.environ


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_attention_is_computed_whole_unless_the_user_says_otherwise(
    bundle, monkeypatch, given, expected
):
    switch = "ORT_GQA_DISABLE_FLASH_ATTENTION"
    monkeypatch.delenv(switch, raising=False)
    if given is not None:
        monkeypatch.setenv(switch, given)
    opened, seen = ort.InferenceSession, []

    def opening(*arguments, **options):
        seen.append(os.environ.get(switch))
        return opened(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", opening)
    CausalSession(bundle / "model.onnx", read_manifest(bundle).graph, threads=1)

    assert seen == [expected]
    assert os.environ.get(switch) == given
