"""Both graphs' contract, against the same model written in numpy; nothing here needs torch."""

import sys

import numpy as np
import pytest

import lmkit as lk
from lmkit.encoding import IGNORE, Encoded, prompt_ids
from lmkit.errors import BundleError, MissingExtra, ModelError, PromptTooLong, RecordError
from lmkit.family import Family
from lmkit.metrics import Rouge
from lmkit.runtime.seq2seq import Seq2SeqSession, Seq2SeqState
from lmkit.saving.manifest import read_manifest

from .toybundle import change_manifest
from .toypair import RECORDS, SOURCE_LENGTH, START, TARGET_LENGTH, TASK, toy_pair, write_pair

# Sums of at most 64 float32 products on logits of size ten, added up in another order.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair") / "bundle")


@pytest.fixture(scope="module")
def ask(bundle):
    return lk.load(bundle, threads=1)


@pytest.fixture(scope="module")
def twin(ask):
    return toy_pair(ask.tokenizer.vocab_size)


@pytest.fixture(scope="module")
def session(bundle):
    return Seq2SeqSession(bundle, read_manifest(bundle).graph, threads=1)


@pytest.fixture(scope="module")
def sources(ask):
    found = [prompt_ids(TASK, record, ask.tokenizer) for record in RECORDS]
    assert len({len(source) for source in found}) == len(found)
    return found


def agree(found, expected):
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_the_threads_of_one_graph_rest_while_the_other_runs(session):
    for onnx in (session.encoder, session.decoder):
        options = onnx.get_session_options()

        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


class TestWriting:
    def test_starts_behind_the_start_token(self, session, twin, sources):
        _, logits = session.begin(sources[:1], [4])

        agree(logits[0], twin.logits(sources[0], [START])[0])

    def test_ragged_sources_are_written_for_as_each_alone(self, session, twin, sources):
        state, logits = session.begin(sources, [6] * 3)
        targets = [[START], [START], [START]]

        for tokens in ([5, 6, 7], [8, 8, 9], [200, 6, 31]):
            for source, target, row in zip(sources, targets, logits, strict=True):
                agree(row, twin.logits(source, target)[-1])
                target.append(tokens.pop(0))
            logits = state.step([target[-1] for target in targets])

        for source, target, row in zip(sources, targets, logits, strict=True):
            agree(row, twin.logits(source, target)[-1])

    def test_a_finished_row_does_not_disturb_the_others(self, session, twin, sources):
        state, _ = session.begin(sources[:2], [6] * 2)
        state.step([5, 6])
        logits = state.step([None, 7])
        agree(logits[1], twin.logits(sources[1], [START, 6, 7])[-1])
        logits = state.step([None, 8])

        agree(logits[1], twin.logits(sources[1], [START, 6, 7, 8])[-1])

    def test_one_token_is_enough(self, session, twin, sources):
        _, logits = session.begin(sources, [1, 1, 1])

        agree(logits[2], twin.logits(sources[2], [START])[0])


class TestReordering:
    """Rows become copies of rows; those of one source share its keys and values."""

    @pytest.fixture
    def begun(self, session, sources):
        state, _ = session.begin(sources[:2], [8, 8])
        state.step([5, 6])
        return state, [(0, [START, 5]), (1, [START, 6])]

    @pytest.mark.parametrize(
        ("orders", "shared"),
        [
            ([[0, 1]], True),
            ([[0, 0, 1, 1]], True),  # two beams each
            ([[0, 0, 0, 1, 1, 1], [2, 1, 0, 3, 3, 4]], True),
            ([[0, 0, 1, 1], [2, 3]], False),  # a source is finished
            ([[0, 0, 1, 1], [0, 2]], True),  # back to one row each
            ([[1, 0]], False),
            ([[0, 0, 1]], False),  # uneven: every row has keys of its own
            ([[0, 0, 1], [2, 2, 0, 1]], False),
        ],
    )
    def test_each_row_goes_on_as_the_one_it_copies(self, begun, twin, sources, orders, shared):
        state, rows = begun
        mask = state._read.mask
        for step, order in enumerate(orders):
            state.reorder(order)
            tokens = [20 + 3 * step + at for at in range(len(order))]
            logits = state.step(tokens)

            rows = [
                (rows[origin][0], [*rows[origin][1], token])
                for origin, token in zip(order, tokens, strict=True)
            ]
            assert len(logits) == len(rows)
            for row, (source, target) in zip(logits, rows, strict=True):
                agree(row, twin.logits(sources[source], target)[-1])
        assert (state._read.mask is mask) == shared

    def test_rows_that_leave_are_no_reason_for_new_memory(self, bundle, twin, sources):
        session = Seq2SeqSession(bundle, read_manifest(bundle).graph, threads=1)
        state, _ = session.begin(sources, [8, 8, 8])
        state.step([5, 6, 7])
        used = session.pool.used_bytes
        state.reorder([1, 2])
        state.step([8, 9])
        state.reorder([1])
        logits = state.step([10])

        agree(logits[0], twin.logits(sources[2], [START, 7, 9, 10])[-1])
        assert session.pool.used_bytes == used
        state.close()
        assert session.pool.used_bytes == 0
        with pytest.raises(ModelError):
            state.step([11])

    def test_sources_that_cannot_be_read_leave_nothing_behind(self, bundle, sources, monkeypatch):
        session = Seq2SeqSession(bundle, read_manifest(bundle).graph, threads=1)
        monkeypatch.setattr(Seq2SeqState, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.begin(sources, [8, 8, 8])

        assert session.pool.used_bytes == 0


class TestScoring:
    def test_forced_logits_are_one_more_than_the_answer(self, session, twin, sources):
        answer = np.array([9, 8, 7])

        agree(session.forced(sources[0], answer), twin.logits(sources[0], [START, 9, 8, 7]))

    def test_log_probs_are_of_each_learned_token(self, session, twin, sources):
        labels = [np.array([9, 8, 7, 6]), np.array([5, 4]), np.array([5, IGNORE, 6])]
        rows = [
            Encoded(source, target, family=Family.SEQ2SEQ)
            for source, target in zip(sources, labels, strict=True)
        ]

        found = session.log_probs(rows)

        assert [len(scores) for scores in found] == [4, 2, 2]
        logits = twin.logits(sources[0], [START, 9, 8, 7]).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        agree(found[0], expected[np.arange(4), labels[0]])
        logits = twin.logits(sources[1], [START, 5]).astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        agree(found[1], expected[np.arange(2), labels[1]])

    def test_a_source_of_several_targets_is_read_once(self, session, sources, monkeypatch):
        rows = [
            Encoded(source, np.array(target), family=Family.SEQ2SEQ)
            for source in sources[:2]
            for target in ([9, 8], [5], [9, 7, 6])
        ]
        alone = [session.log_probs([row])[0] for row in rows]
        read, counts = session.read, []
        monkeypatch.setattr(session, "read", lambda given: counts.append(len(given)) or read(given))

        for ours, theirs in zip(session.log_probs(rows), alone, strict=True):
            agree(ours, theirs)
        assert counts == [2]

    def test_an_answer_takes_no_room_from_its_source(self, session, sources):
        assert [session.room(source) for source in sources] == [TARGET_LENGTH] * 3

    def test_penalties_look_back_on_the_target_alone(self, session, sources):
        assert session.history(sources[0]).tolist() == [START]


class TestAnswers:
    def test_are_the_likeliest_tokens(self, ask, twin, sources):
        answers = ask.batch(RECORDS, temperature=0)

        for answer, source in zip(answers, sources, strict=True):
            expected = twin.greedy(source, 12)
            assert list(answer.token_ids) == expected[: len(answer.token_ids)]
            assert answer.usage.prompt_tokens == len(source)
            assert len(answer.token_ids) == 12 or answer.finish_reason == "stop"

    def test_in_pieces_are_the_whole(self, ask):
        assert "".join(ask.stream(RECORDS[1])) == ask(RECORDS[1]).text

    def test_are_drawn_by_seed(self, ask):
        options = {"temperature": 3.0, "seed": 5}

        assert ask(RECORDS[0], **options) == ask(RECORDS[0], **options)
        assert ask(RECORDS[0], temperature=3.0, seed=6) != ask(RECORDS[0], **options)

    def test_end_where_the_decoder_has_no_more_positions(self, ask):
        answer = ask(RECORDS[1], max_new_tokens=500, min_new_tokens=400)

        assert len(answer.token_ids) == TARGET_LENGTH
        assert answer.finish_reason == "length"

    def test_do_not_depend_on_the_neighbours(self, ask):
        alone = [ask(record, max_new_tokens=9).token_ids for record in RECORDS]

        together = ask.batch(RECORDS, max_new_tokens=9, batch_size=3)

        assert [answer.token_ids for answer in together] == alone


class TestMeasured:
    rows = tuple({**record, "summary": "요약 short"} for record in RECORDS)

    def test_by_what_answers_share_with_the_summaries(self, ask):
        measured = ask.with_task(TASK.evolve(metrics=[Rouge()]))
        answers = [answer.value for answer in ask.batch(self.rows)]
        summaries = [f"{answer} 요약" for answer in answers]
        rows = [{**row, "summary": text} for row, text in zip(RECORDS, summaries, strict=True)]

        figures = lk.evaluate(measured, data=rows)

        expected = Rouge().score(answers, summaries)
        assert {name: figures[name] for name in expected} == expected
        assert 0 < expected["rouge1"] < 1

    def test_with_articles_that_are_read_as_far_as_in_training(self, ask):
        figures = lk.evaluate(ask, data=[{"article": "é" * 100, "summary": "short"}])

        assert (figures["records"], figures["tokens"]) == (1, len("short") + 1)

    def test_only_if_all_that_a_metric_needs_is_installed(self, ask, monkeypatch):
        monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
        monkeypatch.setattr(type(ask), "score", lambda *_: pytest.fail("it was measured before"))
        measured = ask.with_task(TASK.evolve(metrics=[Rouge()]))

        with pytest.raises(MissingExtra, match=r"pip install 'lmkit-tasks\[metrics\]'"):
            lk.evaluate(measured, data=list(self.rows))


class TestBadInput:
    def test_an_article_longer_than_the_task_reads_is_refused(self, ask):
        with pytest.raises(
            RecordError, match=r"record 1.*source has 200 tokens.*reads 48.*shorten"
        ):
            ask.batch([RECORDS[0], {"article": "é" * 100}])

    def test_or_read_as_in_training_if_the_task_says_so(self, ask):
        collator = lk.Seq2SeqCollator(max_source_length=48, cut_prompt=True)
        cutting = ask.with_task(ask.task.evolve(collator=collator))

        answer = cutting({"article": "é" * 100})

        assert answer.usage.prompt_tokens == 48
        assert ask.task == TASK

    def test_an_article_longer_than_the_encoder_is_refused(self, ask):
        wide = ask.with_task(ask.task.evolve(collator=lk.Seq2SeqCollator(max_source_length=300)))

        with pytest.raises(PromptTooLong, match=f"200 tokens .* holds {SOURCE_LENGTH};"):
            wide({"article": "é" * 100})

    def test_a_record_without_its_article_is_named(self, ask):
        with pytest.raises(RecordError, match="record 0: column 'article' is missing"):
            ask({"summary": "short"})

    @pytest.mark.parametrize("field", ["n_layers", "n_heads", "head_size", "vocab_size"])
    def test_a_size_that_contradicts_the_graphs_is_refused(self, tmp_path, field):
        folder = write_pair(tmp_path / "bundle")
        change_manifest(folder, lambda data: data["graph"].update({field: 77}))

        with pytest.raises(BundleError, match=f"{field} is written down as 77"):
            lk.load(folder)

    def test_a_missing_decoder_is_named(self, tmp_path):
        folder = write_pair(tmp_path / "bundle")
        (folder / "decoder.onnx").unlink()

        with pytest.raises(BundleError, match=r"'decoder\.onnx' is missing"):
            lk.load(folder)
