"""A chat as somebody at a terminal has it."""

import json
import re
from pathlib import Path

import pytest
from runtime.toybundle import RECORD, write_bundle

pytest.importorskip("termios", reason="a system without terminals of this kind")
readline = pytest.importorskip("readline")
from terminal import terminal  # noqa: E402

SLOWLY = Path(__file__).parents[1] / "chatting" / "slowly.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("chat") / "bundle", says="네.")


def plain(shown):
    """Return what a terminal shows, without what it obeys."""
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown)


def test_it_says_what_it_is_answers_and_ends_at_ctrl_d(bundle):
    with terminal("-m", "lmkit", "chat", bundle, "--threads", "1") as screen:
        screen.expect("toy (toy) · /help lists the commands, Ctrl-D ends")
        screen.expect("> ")
        screen.type(f"{RECORD['prompt']}\n")
        screen.expect("네.\n")
        screen.expect("> ")
        screen.type("/help\n")
        screen.expect("/retry")
        screen.expect("> ")
        screen.type("\x04")

        assert screen.end() == 0


def test_no_color_means_none(bundle):
    with terminal("-m", "lmkit", "chat", bundle, "--threads", "1", NO_COLOR="1") as screen:
        screen.expect("> ")
        screen.type("/bogus\n")
        screen.expect("error: no command")
        screen.expect("> ")
        screen.type("/exit\n")

        assert screen.end() == 0
    assert not re.search(r"\x1b\[\d*m", screen.shown)


def test_ctrl_c_stops_an_answer_and_keeps_what_came(tmp_path):
    file = tmp_path / "chat.jsonl"
    with terminal(SLOWLY) as screen:
        screen.expect("> ")
        screen.type("하나\n")
        screen.expect("1번째 답: 가나")
        screen.type("\x03")
        screen.expect("stopped; what came is kept")
        screen.expect("> ")
        screen.type("/retry\n")
        screen.expect("2번째 답: 가나")
        screen.type("\x03")
        screen.expect("> ")
        screen.type(f"/save {file}\n")
        screen.expect("saved in")
        screen.expect("> ")
        screen.type("\x04")

        assert screen.end() == 0
    row = json.loads(file.read_text("utf-8"))
    assert row["messages"][0]["content"] == "하나"
    assert row["messages"][1]["content"].startswith("2번째 답: 가나")


def test_ctrl_c_twice_at_the_prompt_is_130():
    hint = "Ctrl-C again, Ctrl-D or /exit ends the chat"
    with terminal(SLOWLY) as screen:
        screen.expect("> ")
        screen.interrupt(hint)
        screen.expect(hint)
        screen.expect("> ")
        screen.interrupt()

        assert screen.end() == 130


@pytest.mark.skipif("libedit" in (readline.__doc__ or ""), reason="libedit knows neither")
class TestReadline:
    def test_edit_gives_the_last_message_to_change(self, bundle):
        with terminal("-m", "lmkit", "chat", bundle, "--threads", "1") as screen:
            screen.expect("> ")
            screen.type("안녕하세요\n")
            screen.expect("> ")
            screen.type("/edit\n")
            screen.expect("> 안녕하세요")
            screen.type("?\n")
            screen.expect("네.\n")
            screen.expect("> ")
            screen.type("\x04")

            assert screen.end() == 0

    def test_pasted_lines_are_one_message(self, bundle):
        with terminal("-m", "lmkit", "chat", bundle, "--threads", "1") as screen:
            screen.expect("> ")
            screen.type("\x1b[200~one\ntwo\x1b[201~\n")
            screen.expect("> ")
            screen.type("/prompt\n")
            screen.expect("tokens)")

            assert "Q: one\ntwo\nA:\n(" in plain(screen.shown).replace("\r", "")

    def test_a_history_file_is_its_owners(self, bundle, tmp_path):
        file = tmp_path / "history"
        with terminal("-m", "lmkit", "chat", bundle, "--history", file) as screen:
            screen.expect("> ")
            screen.type("비밀\n")
            screen.expect("> ")
            screen.type("\x04")
            assert screen.end() == 0

        assert "비밀" in file.read_text("utf-8")
        assert file.stat().st_mode & 0o777 == 0o600
