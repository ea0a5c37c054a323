"""What is typed is answered or obeyed, and a mistake leaves the conversation as it was."""

import json
import signal

import pytest

from lmkit.errors import LmkitError, UnknownName

from .conftest import QA, Counter


def test_every_line_is_answered_with_all_that_was_said(hold):
    held = hold("안녕", "그리고?")

    assert held.out == "1번째 답.\n2번째 답.\n"
    assert held.err == ""
    assert held.messages == ["안녕", "1번째 답.", "그리고?", "2번째 답."]
    assert held.dialogue.talk.model.asked[1]["messages"] == [
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "1번째 답."},
        {"role": "user", "content": "그리고?"},
    ]


def test_a_task_that_is_no_chat_reads_the_last_line_only(hold):
    held = hold("one", "two", model=Counter(QA))

    assert held.dialogue.talk.model.asked == [{"prompt": "one"}, {"prompt": "two"}]


def test_blank_lines_say_nothing(hold):
    assert hold("", "  ", "a", "").out == "1번째 답.\n"


def test_a_backslash_and_paste_make_one_message_of_several_lines(hold):
    held = hold("one\\", "two", "/paste", "three", "", "/four", "/end", "a\\\\")

    assert held.messages[::2] == ["one\ntwo", "three\n\n/four", "a\\"]


def test_two_slashes_say_one(hold):
    assert hold("//etc/hosts?").messages[0] == "/etc/hosts?"


def test_retry_answers_the_last_message_anew(hold):
    held = hold("a", "/retry")

    assert held.messages == ["a", "2번째 답."]


def test_edit_says_it_otherwise(hold):
    held = hold("a", "b", "/edit c")

    assert held.messages == ["a", "1번째 답.", "c", "3번째 답."]


def test_undo_takes_back_a_message_with_its_answer(hold):
    held = hold("a", "b", "/undo")

    assert held.messages == ["a", "1번째 답."]
    assert "taken back: b" in held.err


def test_clear_forgets_all_but_the_system_message(hold):
    held = hold("a", "/clear", "b", system="Be brief.")

    assert held.dialogue.talk.model.asked[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "b"},
    ]


def test_the_system_message_is_shown_set_and_taken_away(hold):
    held = hold("/system", "/system 짧게 말해.", "/system", "a", "/system -", "b")

    assert "system: 짧게 말해." in held.err
    roles = [
        [turn["role"] for turn in asked["messages"]] for asked in held.dialogue.talk.model.asked
    ]
    assert roles == [["system", "user"], ["user", "assistant", "user"]]


def test_settings_hold_for_what_follows_until_they_are_undone(hold):
    held = hold("a", "/set temperature=0.5 stop='###'", "b", "/set temperature=", "c")

    assert held.dialogue.talk.model.options == [
        {},
        {"temperature": 0.5, "stop": "###"},
        {"stop": "###"},
    ]
    assert "temperature  0.5  (the task's: 0.0)" in held.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/retyr", "/retry"),
        ("/set temprature=1", "temperature"),
        ("/set temprature=", "temperature"),
        ("/set top_p=2", "top_p is 2"),
        ("/set fast", "NAME=VALUE"),
        ("/retry", "no message"),
        ("/edit x", "no message"),
        ("/undo", "nothing"),
        ("/prompt", "say something"),
        ("/save", "which file"),
        ("/save f", "nothing to save"),
        ("/load no-such-file", "is no file"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(hold, line, told):
    with pytest.raises(LmkitError, match=told):
        hold(line)


def test_at_a_terminal_a_mistake_is_told_and_the_conversation_goes_on(hold):
    held = hold("/retyr", "a", stays=True)

    assert "error: no command named '/retyr'" in held.err
    assert held.out == "1번째 답.\n"


def test_in_a_pipe_an_unknown_command_is_raised(hold):
    with pytest.raises(UnknownName):
        hold("/nonsense")


def test_the_prompt_is_shown_as_the_model_was_given_it(hold):
    held = hold("안녕", "/prompt")

    assert "<|im_start|>user\n안녕<|im_end|>\n<|im_start|>assistant\n" in held.err
    assert "번째" not in held.err


def test_the_prompt_of_a_task_that_is_no_chat_is_shown_too(hold):
    assert hold("a", "/prompt", model=Counter(QA)).err.startswith("Q: a\nA:\n(")


class TestCtrlC:
    class Interrupted(Counter):
        """Of its third answer its reader has seen enough after some characters."""

        characters = 0

        def stream(self, record, **options):
            answer = self(record, **options)
            for place, character in enumerate(answer.text):
                if len(self.asked) == 3 and place == self.characters:
                    signal.raise_signal(signal.SIGINT)
                yield character
            return answer

    @pytest.mark.parametrize("third", ["c", "/retry", "/edit c"])
    @pytest.mark.parametrize("pieces", [True, False])
    def test_before_the_first_word_leaves_all_as_it_was(self, hold, third, pieces):
        held = hold("a", "b", third, model=self.Interrupted(), stays=True, pieces=pieces)

        assert held.messages == ["a", "1번째 답.", "b", "2번째 답."]
        assert held.out == "1번째 답.\n2번째 답.\n"
        assert "stopped before the first word: the conversation is as it was" in held.err
        assert "kept" not in held.err

    @pytest.mark.parametrize("pieces", [True, False])
    def test_behind_it_keeps_what_came(self, hold, pieces):
        model = self.Interrupted()
        model.characters = 3
        held = hold("a", "b", "c", model=model, stays=True, pieces=pieces)

        assert held.messages[-2:] == ["c", "3번째"]
        assert held.out.endswith("3번째\n")
        assert "stopped; what came is kept" in held.err


class TestFiles:
    def test_what_is_saved_is_a_record_to_train_on_and_to_go_on_with(self, hold, tmp_path):
        file = tmp_path / "chat.jsonl"
        hold("가", f"/save {file}", system="S")

        assert json.loads(file.read_text("utf-8")) == {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "가"},
                {"role": "assistant", "content": "1번째 답."},
            ]
        }
        held = hold(f"/load {file}", "나", f"/save {file}")
        assert held.messages == ["가", "1번째 답.", "나", "1번째 답."]
        assert held.dialogue.talk.conversation.system == "S"
        assert "나" in file.read_text("utf-8")

    def test_another_file_is_never_written_over(self, hold, tmp_path):
        file = tmp_path / "mine.txt"
        file.write_text("mine")

        with pytest.raises(LmkitError, match="is there already"):
            hold("a", f"/save {file}")
        assert file.read_text() == "mine"

    @pytest.mark.parametrize("file", ["~no-such-user/f", "no-such-folder/f", "x" * 300])
    def test_a_name_that_cannot_be_is_told(self, hold, file):
        held = hold("a", f"/save {file}", f"/load {file}", "b", stays=True)

        assert "cannot be written" in held.err
        assert "is no file" in held.err
        assert held.messages == ["a", "1번째 답.", "b", "2번째 답."]

    def test_one_of_several_conversations_is_chosen(self, hold, tmp_path):
        file = tmp_path / "chats.jsonl"
        rows = [{"messages": [{"role": "user", "content": text}]} for text in ("a", "b")]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

        with pytest.raises(LmkitError, match="has 2 conversations"):
            hold(f"/load {file}")
        held = hold(f"/load {file}:2", "/retry")
        assert held.messages == ["b", "1번째 답."]
        assert "/retry answers the last one" in held.err

    def test_a_task_that_is_no_chat_saves_a_line_for_each_message(self, hold, tmp_path):
        file = tmp_path / "qa.jsonl"
        hold("a", "b", f"/save {file}", model=Counter(QA))

        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert lines == [
            {"prompt": "a", "answer": "1번째 답."},
            {"prompt": "b", "answer": "2번째 답."},
        ]
        assert hold(f"/load {file}", model=Counter(QA)).messages == [
            *("a", "1번째 답.", "b", "2번째 답.")
        ]


class TestAFullContext:
    LONG = "x" * 60

    def test_is_told_and_the_message_is_not_said(self, hold):
        held = hold(self.LONG, self.LONG, model=Counter(context_length=160), stays=True)

        assert "so it was not said" in held.err
        assert "/trim" in held.err
        assert held.messages == [self.LONG, "1번째 답."]

    def test_is_an_error_in_a_pipe(self, hold):
        with pytest.raises(LmkitError, match=r"so it was not said.*--trim"):
            hold(self.LONG, self.LONG, model=Counter(context_length=160))

    def test_of_one_message_has_nothing_to_leave_out(self, hold):
        with pytest.raises(LmkitError, match=r"the message alone has .* say it shorter"):
            hold(self.LONG * 3, model=Counter(context_length=160), trims=True)

    def test_loses_its_oldest_turns_when_asked(self, hold):
        lines = [f"{number}{self.LONG}" for number in range(4)]
        held = hold(*lines, model=Counter(context_length=270), trims=True)

        shown = [
            [turn["content"][0] for turn in asked["messages"] if turn["role"] == "user"]
            for asked in held.dialogue.talk.model.asked
        ]
        assert shown == [["0"], ["0", "1"], ["2"], ["2", "3"]]
        assert "the oldest 2 turns are left out" in held.err
        assert len(held.messages) == 8  # nothing is forgotten, so it can be saved whole

    def test_that_ends_an_answer_is_told(self, hold):
        model = Counter(context_length=100)
        fits = 100 - len(model.prompt({"messages": [{"role": "user", "content": ""}]})) - 2
        held = hold("x" * fits, model=model)

        assert "because the context is full" in held.err
