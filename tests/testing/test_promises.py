"""Each promise that needs no training, broken on purpose; what the failure says is looked at."""

import numpy as np
import pytest

import lmkit as lk
from lmkit.errors import TaskError, UnknownName
from lmkit.testing import PROMISES, QUICK, PromiseBroken, check_task, sample_record, sample_records

RECORDS = [
    {"q": "안녕하세요?", "a": "네, 안녕하세요!"},
    {"q": "Is it far?", "a": "No, it is near."},
]
MLM, QA, SUMMARIZE = map(lk.get_task, ("mlm", "qa", "summarize"))


def failure(task, records=RECORDS, promises=QUICK, **options):
    """Return what a check raises."""
    with pytest.raises(PromiseBroken) as raised:
        check_task(task, records, promises=promises, **options)
    return raised.value


class TestATaskThatKeepsItsPromises:
    @pytest.mark.parametrize("task", [MLM, QA, SUMMARIZE], ids=lambda task: task.name)
    def test_passes_on_a_sample_record(self, task):
        report = check_task(task, [sample_record(task)], promises=QUICK)

        assert report.kept == QUICK
        assert not report.skipped

    def test_passes_on_other_tokenizers(self, load_shared):
        check_task(
            MLM,
            [{"text": "영화는 정말 좋았다"}],
            load_shared("koelectra-wordpiece"),
            promises=QUICK,
        )
        check_task(QA, sample_records("causal"), load_shared("qwen2"), promises=QUICK)

    def test_passes_with_a_structure_around_its_answer(self, broken):
        formatter = lk.context("{q}\n") + lk.target('{{"a": "{a}"}}')
        decoder = broken.JsonDecoder()

        check_task(broken.task(formatter=formatter, decoder=decoder), RECORDS, promises=QUICK)

    def test_is_told_what_took_how_long(self):
        report = check_task(QA, [sample_record(QA)], promises=["prompt", "columns"])

        assert report.kept == ("columns", "prompt")  # in the order of a record's way
        assert str(report).startswith("task 'qa' keeps 2 promises (")
        assert report.seconds == sum(outcome.seconds for outcome in report.outcomes)

    def test_of_one_text_has_no_end_and_no_answer(self):
        report = check_task(lk.get_task("char-lm"), sample_records("text"), promises=QUICK)

        assert set(report.skipped) == {"end", "decode"}


class TestTheChoice:
    def test_of_promises_is_among_those_that_there_are(self):
        assert PROMISES[: len(QUICK)] == QUICK
        assert PROMISES[len(QUICK) :] == ("overfits", "exports")
        with pytest.raises(UnknownName, match="no promise named 'overfit'\n  close to: overfits"):
            check_task(QA, [sample_record(QA)], promises=["overfit"])

    def test_of_records_has_one_at_least(self):
        with pytest.raises(TaskError, match="cannot be checked without a record"):
            check_task(QA, [])


class TestAFailure:
    def test_says_which_promise_shows_the_record_and_what_to_try(self, broken):
        error = failure(broken.task(formatter=broken.Asks()), promises=["prompt"])

        assert str(error) == (
            "task 'broken' breaks its promise 'prompt': the prompt is no prefix of the training "
            "text, so it is asked what it never read\n"
            '  record     record 0  {"q": "안녕하세요?", "a": "네, 안녕하세요!"}\n'
            "  text       Q: 안녕하세요?↵\n"
            "             A:« 네, 안녕하세요!⟦<|endoftext|>⟧»\n"
            "  asked      Q: 안녕하세요?\n"
            "             A: \n"
            "  tokenizer  byte-level bpe\n"
            "  try        let `prompt` write the same segments as `segments` does, up to the first "
            "that is learned"
        )
        assert (error.task, error.promise, error.record) == ("broken", "prompt", RECORDS[0])
        assert isinstance(error, TaskError)

    def test_shows_where_the_tasks_own_code_fails_and_nothing_of_lmkit(self, broken):
        error = failure(broken.task(formatter=broken.Fails()))

        assert "it fails with IndexError: list index out of range" in str(error)
        frames = []
        trace = error.__cause__.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert frames == ["segments"]

    def test_names_the_place_in_the_file(self, broken, tmp_path):
        file = tmp_path / "two.jsonl"
        file.write_text('{"q": "1", "a": "one"}\n{"q": "2", "a": ""}\n', "utf-8")
        from lmkit.records import read

        assert "two.jsonl:2  {" in str(failure(broken.task(), read(file)))

    def test_of_a_long_record_is_short(self, broken):
        long = [{"q": "x" * 5000, "a": ""}]

        assert len(str(failure(broken.task(), long))) < 2500


class TestColumns:
    def test_that_are_missing_are_named(self, broken):
        error = failure(broken.task(), [{"q": "x"}])

        assert error.promise == "columns"
        assert "column 'a' is missing; the record has q" in str(error)
        assert "columns  q, a" in str(error)

    def test_of_the_answer_are_not_in_the_prompt(self, broken):
        error = failure(broken.task(formatter=broken.Peeks()))

        assert error.promise == "columns"
        assert "without a, which its prompt_columns do not name, it fails" in str(error)

    def test_that_are_read_are_named(self, broken):
        error = failure(
            broken.task(formatter=broken.Reads()), [{**row, "more": "x"} for row in RECORDS]
        )

        assert "without more, which its columns do not name, it fails: KeyError" in str(error)

    def test_stay_as_they_are(self, broken):
        assert "the formatter changes the record" in str(
            failure(broken.task(formatter=broken.Changes()), [dict(row) for row in RECORDS])
        )

    def test_become_the_same_text_each_time(self, broken):
        assert "another text the second time" in str(
            failure(broken.task(formatter=broken.Counts()))
        )

    def test_that_a_transform_cannot_make_are_told(self):
        def cut(record):
            return {**record, "prompt": record["text"][:9]}

        error = failure(QA.map(cut), sample_records("causal"))

        assert "its transforms fail" in str(error)
        assert "KeyError: 'text'" in str(error)


class TestJson:
    def test_has_a_name_for_every_function(self):
        error = failure(QA.map(lambda record: record), sample_records("causal"))

        assert error.promise == "json"
        assert "a lambda has no name" in str(error)

    def test_has_a_name_for_every_part(self, broken, monkeypatch):
        monkeypatch.undo()  # the plugin is not installed
        error = failure(broken.task(decoder=broken.LoudDecoder()))

        assert "LoudDecoder has no name in JSON" in str(error)
        assert "lmkit_components" in str(error)

    def test_holds_all_that_a_formatter_knows(self, broken):
        assert "after a trip through JSON the formatter writes another text" in str(
            failure(broken.task(formatter=broken.Forgets()))
        )


class TestALightImport:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        """Return a function that writes a module with a decoder and imports it."""
        monkeypatch.syspath_prepend(tmp_path)

        def write(name, first):
            text = (
                f"{first}\nimport attrs\nimport lmkit\n@attrs.frozen\n"
                "class Reader(lmkit.TextDecoder):\n    pass\n"
            )
            (tmp_path / f"{name}.py").write_text(text, "utf-8")
            namespace = {"__name__": name}
            exec(text.replace(first, ""), namespace)  # what it imports is for the other process
            return namespace["Reader"]()

        return write

    def test_of_a_part_has_no_torch(self, broken, module):
        pytest.importorskip("pandas")
        task = broken.task(decoder=module("heavy_reader", "import pandas"))
        error = failure(task, promises=["light_import"])

        assert "importing the module heavy_reader imports pandas" in str(error)
        assert "import it inside the function that needs it" in str(error)

    def test_of_a_part_works_in_a_process_of_its_own(self, broken, module):
        task = broken.task(decoder=module("lost_reader", "import no_such_module"))
        error = failure(task, promises=["light_import"])

        assert "lost_reader cannot be imported in a process of its own" in str(error)
        assert "No module named 'no_such_module'" in str(error)

    def test_is_looked_at_of_files_and_of_plugins(self, broken):
        report = check_task(
            broken.task(decoder=broken.LoudDecoder()), RECORDS, promises=["light_import"]
        )

        assert report.kept == ("light_import",)

    def test_of_lmkit_itself_is_not_the_tasks_business(self):
        task = QA.evolve(name="nobodys")

        assert check_task(task, sample_records("causal"), promises=["light_import"]).skipped


class TestAPrompt:
    def test_of_a_seq2seq_task_is_the_source(self, broken):
        task = SUMMARIZE.evolve(collator=broken.OtherSourceCollator())
        error = failure(task, sample_records("seq2seq"))

        assert "the prompt is not the source that it learns from" in str(error)
        assert "asked      ummarize: What is" in str(error)

    def test_of_a_masked_task_is_framed_as_its_text(self, broken):
        task = MLM.evolve(collator=broken.UnframedCollator())
        error = failure(task, sample_records("masked"))

        assert "the prompt is framed otherwise than the training text" in str(error)
        assert "tokenizer  wordpiece" in str(error)

    def test_takes_no_control_token_from_a_record(self, broken):
        error = failure(broken.task(formatter=broken.Trusts()))

        assert "a control token that a record spells out acts as one" in str(error)
        assert "⟦<|im_end|>⟧" in str(error)  # where it acts
        assert error.record["q"].startswith("안녕하세요? 가나다")


class TestAnEnd:
    def test_is_learned(self, broken):
        error = failure(broken.task(collator=broken.EndlessCollator()))

        assert error.promise == "end"
        assert "an answer would never stop" in str(error)
        assert "A:« 네, 안녕하세요!»⟦<|endoftext|>⟧" in str(error)  # behind what is learned


class TestNothingToLearn:
    @pytest.mark.parametrize("answer", ["", "  "])
    def test_is_in_a_blank_answer(self, broken, answer):
        error = failure(broken.task(), [*RECORDS, {"q": "x", "a": answer}])

        assert error.promise == "nothing_to_learn"
        assert "of this record only the end of an answer is learned" in str(error)
        assert "record 2  {" in str(error)

    def test_is_in_a_target_without_a_column(self, broken):
        task = broken.task(formatter=lk.context("Q: {q}{a}") + lk.target(""))

        assert "nothing is learned from {'q'" in str(failure(task))

    def test_is_in_a_masked_record_without_text(self):
        with pytest.raises(TaskError, match="nothing is learned from"):
            check_task(MLM, [{"text": ""}], promises=QUICK)

    def test_is_invented_where_the_answer_is_blank(self, broken):
        error = failure(broken.task(formatter=broken.Invents()))

        assert "where the answer is blank it learns 'I do not know'" in str(error)
        assert "record 0 with a blank a" in str(error)

    def test_is_in_padding(self, broken):
        assert "two rows learn 11 and 17 tokens, and in a batch of both 21 and 17" in str(
            failure(broken.task(collator=broken.PaddingCollator()))
        )

    def test_is_out_of_place(self, broken):
        error = failure(broken.task(collator=broken.ShiftedCollator()))

        assert "a label is not the token of its own place" in str(error)
        assert "A« 네, 안녕하세요!⟦<|endoftext|>⟧»⟦<|endoftext|>⟧" in str(error)


class TestADecoder:
    def test_reads_what_the_record_says(self, broken):
        error = failure(broken.task(decoder=broken.LoudDecoder()))

        assert error.promise == "decode"
        assert "reads 'NO, IT IS NEAR.' where the record says 'No, it is near.'" in str(error)

    def test_reads_an_answer_in_one_way(self, broken):
        assert "the decoder reads one answer in two ways" in str(
            failure(broken.task(decoder=broken.ForgetfulDecoder()))
        )

    def test_is_not_stopped_within_an_answer(self, broken):
        error = failure(broken.task(decoder=lk.TextDecoder(stop=(",",))))

        assert "only ' 네' of ' 네, 안녕하세요!' would be read" in str(error)

    def test_takes_off_what_stands_around_an_answer(self, broken):
        formatter = lk.context("Q: {q}\n") + lk.target("A: {a}")

        assert "reads 'A: 네, 안녕하세요!'" in str(failure(broken.task(formatter=formatter)))

    def test_reads_masks_off_the_logits(self, broken):
        task = MLM.evolve(decoder=broken.BlindDecoder())

        assert "reads a mask that is" in str(failure(task, sample_records("masked")))


def test_nothing_of_a_check_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    state = np.random.get_state()[1].tolist()

    check_task(QA, sample_records("causal"), promises=QUICK)

    assert list(tmp_path.iterdir()) == []
    assert np.random.get_state()[1].tolist() == state
