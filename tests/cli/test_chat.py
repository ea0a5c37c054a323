"""A chat in a pipe and in a terminal, with a bundle that was made by hand."""

import io
import json
import sys

import pytest
from runtime.toybundle import RECORD, TASK, write_bundle

import lmkit as lk


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("chat") / "bundle", says="네, 맞아요.")


@pytest.fixture
def chat(lmkit, monkeypatch, bundle):
    """Return a function that pipes lines into a chat."""

    def chat(*lines, args=(), bundle=bundle):
        said = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said)))
        return lmkit("chat", bundle, "--threads", "1", *args)

    return chat


def test_a_pipe_gets_answers_and_nothing_else(chat, bundle):
    done = chat(RECORD["prompt"], "네")

    ask = lk.load(bundle, threads=1)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{ask(RECORD).value}\n{ask({'prompt': '네'}).value}\n"


def test_json_is_a_line_for_each_answer(chat, bundle):
    done = chat(RECORD["prompt"], args=("--json", "--stats", "--max-new-tokens", "3"))

    found = json.loads(done.out)
    assert found["usage"]["completion_tokens"] == 3
    assert found["finish_reason"] == "length"
    assert found["timing"]["seconds"] > 0
    assert done.err == ""


def test_stats_stand_beside_the_answer(chat):
    done = chat(RECORD["prompt"], args=("--stats",))

    assert "tokens, first after" in done.err
    assert "tokens" not in done.out


def test_labels_come_with_their_probabilities(chat, tmp_path):
    task = TASK.evolve(decoder=lk.LabelDecoder(labels=("긍정", "부정")))
    done = chat("좋아요", bundle=write_bundle(tmp_path / "bundle", task=task))

    label, *shares = done.out.splitlines()
    assert label in ("긍정", "부정")
    assert [share.split()[0] for share in shares] == ["긍정", "부정"]


def test_a_loaded_conversation_is_saved_in_its_file_with_the_system_message_that_is_given(
    chat, tmp_path
):
    task = lk.get_task("chat").evolve(formatter=lk.Chat(template="chatml"))
    record = {"messages": [{"role": "user", "content": "하나"}]}
    bundle = write_bundle(tmp_path / "bundle", task=task, record=record)
    file = tmp_path / "chat.jsonl"

    chat("하나", f"/save {file}", bundle=bundle, args=("--system", "짧게."))
    done = chat(f"/save {file}", bundle=bundle, args=("--load", file, "--system", "길게."))

    assert done.code == 0
    said = json.loads(file.read_text("utf-8"))["messages"]
    assert [turn["content"] for turn in said if turn["role"] != "assistant"] == ["길게.", "하나"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--system", "x"], "no place for a system message"),
        (["--set", "prompt=x"], "are all given"),
        (["--set", "prmpt=x"], "close to: prompt"),
        (["--temperature", "-1"], "temperature"),
        (["--load", "no-such-file"], "is no file"),
    ],
)
def test_what_does_not_fit_is_an_error(chat, args, told):
    done = chat("a", args=args)

    assert done.code == 1
    assert told in done.err


def test_a_task_of_several_columns_says_which_to_give(chat, tmp_path):
    task = TASK.evolve(formatter=lk.context("{prompt} {topic}") + lk.target(" {completion}"))
    bundle = write_bundle(tmp_path / "bundle", task=task, record={"prompt": "a", "topic": "b"})

    done = chat("a", bundle=bundle)
    assert done.code == 1
    assert "--set topic=TEXT" in done.err
    assert chat("a", bundle=bundle, args=("--set", "topic=b")).code == 0


def test_what_is_not_utf_8_is_told_with_its_line(lmkit, monkeypatch, bundle):
    said = io.BytesIO("네\n".encode() + "네\n".encode("cp949"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(said))

    done = lmkit("chat", bundle, "--threads", "1")

    assert done.code == 1
    assert "standard input:2: byte 1 is not UTF-8" in done.err
