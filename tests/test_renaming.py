import json

import pytest

import lmkit as lk
from lmkit.errors import RecordError, RecordErrors, TaskError
from lmkit.renaming import Rename, Renamed, bare, messages_column
from lmkit.saving.jsonform import dump, from_json, to_json
from lmkit.task import Task
from lmkit.testing import QUICK, check_task, sample_record, toy_tokenizer

QA = lk.get_task("qa")
ASKED = QA.rename(question="prompt")
RECORD = {"question": "하나?", "completion": "둘"}
CHAT = lk.get_task("chat")
TURNS = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "네"}]


def ids(task, record):
    return lk.encode(task, [record], toy_tokenizer())[0].input_ids.tolist()


class TestARenamedTask:
    def test_reads_the_datas_column_where_the_task_says_its_own(self):
        assert ids(ASKED, RECORD) == ids(QA, {"prompt": "하나?", "completion": "둘"})

    def test_agrees_with_what_datasets_rename_column_does_to_the_data(self):
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_list([RECORD]).rename_column("question", "prompt")

        assert ids(ASKED, RECORD) == ids(QA, data[0])

    def test_has_the_datas_columns(self):
        assert ASKED.columns == ("question", "completion")
        assert ASKED.prompt_columns == ("question",)

    def test_asks_the_same_prompt(self):
        tokenizer = toy_tokenizer()
        wanted = lk.prompt_ids(QA, {"prompt": "하나?"}, tokenizer)

        assert lk.prompt_ids(ASKED, {"question": "하나?"}, tokenizer).tolist() == wanted.tolist()

    def test_keeps_everything_else(self):
        check_task(ASKED, [RECORD], promises=QUICK)
        assert ASKED.reference(RECORD, toy_tokenizer().dialect) == "둘"
        assert ASKED.evolve(formatter=QA.formatter) == QA

    def test_takes_names_that_are_no_identifiers(self):
        task = QA.rename(**{"answers.text": "completion", "질문 내용": "prompt"})

        assert task.columns == ("질문 내용", "answers.text")
        assert ids(task, {"질문 내용": "하나?", "answers.text": "둘"}) == ids(ASKED, RECORD)

    def test_takes_any_name_a_column_can_have(self):
        assert QA.rename(self="prompt").columns == ("self", "completion")

    def test_can_swap_two_columns(self):
        swapped = QA.rename(prompt="completion", completion="prompt")

        assert ids(swapped, {"prompt": "a", "completion": "b"}) == ids(
            QA, {"prompt": "b", "completion": "a"}
        )

    def test_does_not_read_a_column_of_the_data_that_has_the_tasks_name(self):
        assert ids(ASKED, {**RECORD, "prompt": "something else"}) == ids(ASKED, RECORD)

    def test_can_be_renamed_again(self):
        again = ASKED.rename(q="question", a="completion")

        assert again.columns == ("q", "a")
        assert bare(again.formatter) is QA.formatter
        assert again.rename(prompt="q", completion="a") == QA

    def test_leaves_out_a_name_that_stays(self):
        assert QA.rename(prompt="prompt") == QA

    def test_renames_the_columns_that_a_piece_depends_on(self):
        task = lk.get_task("alpaca").rename(context="input")
        record = {"instruction": "더하라", "output": "2"}

        assert ids(task, {**record, "context": "1+1"}) == ids(
            lk.get_task("alpaca"), {**record, "input": "1+1"}
        )
        assert ids(task, record) == ids(lk.get_task("alpaca"), record)


class TestAChat:
    task = CHAT.rename(conversations="messages")

    def test_reads_its_messages_from_the_datas_column(self):
        assert ids(self.task, {"conversations": TURNS}) == ids(CHAT, {"messages": TURNS})

    def test_is_still_known_for_one(self):
        assert messages_column(self.task.formatter) == "conversations"
        assert messages_column(QA.formatter) is None
        assert list(sample_record(self.task)) == ["conversations"]

    def test_names_the_datas_column_and_the_message_that_is_wrong(self):
        with pytest.raises(RecordError, match=r"\$\.conversations\[0\]\.role is 'human'"):
            ids(self.task, {"conversations": [{"role": "human", "content": "x"}]})


class TestARecordThatDoesNotFit:
    def test_lacks_the_datas_column(self):
        with pytest.raises(RecordError) as caught:
            ids(ASKED, {"prompt": "하나?", "completion": "둘"})

        assert str(caught.value) == (
            "record 0: column 'question' is missing; the record has prompt, completion "
            "(the task's column 'prompt' is read from 'question')"
        )

    def test_has_the_wrong_kind_in_it(self):
        with pytest.raises(RecordError, match="column 'question' is null, expected text"):
            ids(ASKED, {**RECORD, "question": None})

    def test_lacks_another_column_which_goes_by_its_own_name(self):
        with pytest.raises(RecordError, match="column 'completion' is missing; the record has"):
            ids(ASKED, {"question": "x"})

    def test_is_gathered_with_others(self):
        with pytest.raises(RecordErrors, match="2 bad rows"):
            lk.encode(ASKED, [{}, RECORD, {}], toy_tokenizer())


class TestARenameThatCannotBe:
    def test_the_wrong_way_round_is_told_the_right_one(self):
        with pytest.raises(TaskError) as caught:
            QA.rename(prompt="question")

        assert "the task has no column 'question'; its columns are prompt, completion" in str(
            caught.value
        )
        assert "did you mean rename(question='prompt')?" in str(caught.value)

    def test_of_an_unknown_column_names_the_tasks_columns_and_the_near_one(self):
        with pytest.raises(TaskError, match=r"its columns are .*Close to: completion"):
            QA.rename(answer="completio")

    @pytest.mark.parametrize("columns", [{"a": "prompt", "b": "prompt"}, {"completion": "prompt"}])
    def test_of_two_columns_into_one_is_refused(self, columns):
        with pytest.raises(TaskError, match="would be read from"):
            QA.rename(**columns)

    def test_of_nothing_is_refused(self):
        with pytest.raises(TaskError, match="needs a column"):
            QA.rename()

    @pytest.mark.parametrize("name", [3, None, "", ["prompt"]])
    def test_to_no_name_is_refused(self, name):
        with pytest.raises(TaskError, match="expected a string that is not empty"):
            QA.rename(question=name)


class TestInJson:
    @pytest.mark.parametrize("task", [ASKED, TestAChat.task], ids=["template", "chat"])
    def test_it_comes_back_the_same(self, task):
        assert from_json(json.loads(dump(to_json(task))), Task) == task

    def test_it_says_both_names(self):
        formatter = to_json(ASKED)["formatter"]

        assert formatter["type"] == "Renamed"
        assert formatter["formatter"]["type"] == "Template"
        assert formatter["renames"] == [{"data": "question", "task": "prompt"}]

    def test_it_is_checked_when_read(self):
        data = to_json(ASKED)
        data["formatter"]["renames"][0]["task"] = "nothing"

        with pytest.raises(lk.LmkitError, match=r"\$\.formatter: .*no column 'nothing'"):
            from_json(data, Task)


def test_text_after_the_last_target_is_seen_through_a_rename():
    trailing = lk.context("{q}") + lk.target("{a}") + lk.context("!")

    with pytest.raises(TaskError, match=r"context\('!'\) stands after the last target"):
        QA.evolve(formatter=Renamed(trailing, [Rename("question", "q")]))


def test_it_is_legible_in_print():
    assert str(ASKED.formatter).endswith("('prompt' is read from 'question')")
