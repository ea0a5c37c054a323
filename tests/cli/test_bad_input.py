"""Bad input: one clear message that names the thing, exit 1, no traceback, nothing half-written."""

import json
import os
import signal
import subprocess
import sys

import pytest
from exported import ROWS

MODEL = "scratch:gpt2,n_layer=1,n_embd=16,n_head=2,n_positions=64"
GOOD = {"prompt": "하나", "completion": "둘"}
TURN = {"role": "user", "content": "x"}


@pytest.fixture
def refused(lmkit):
    """Return a function that runs a command and gives the message with which it was refused."""

    def refused(*args):
        done = lmkit(*args)
        assert done.code == 1
        assert "Traceback" not in done.err
        assert done.out == ""
        message = done.err.rpartition("error: ")[2]
        assert message.strip()
        return message

    return refused


@pytest.mark.slow  # the first one imports transformers
class TestRecords:
    """What is wrong in a file is told by `train`, `evaluate`, `generate` and `show` alike."""

    @pytest.fixture
    def told(self, refused, tmp_path):
        def told(task, raw):
            file = tmp_path / "bad.jsonl"
            file.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
            before = sorted(tmp_path.iterdir())
            message = refused(
                *("train", task, "--model", MODEL, "--tokenizer", "char:unk", "--data", file),
                *("--output", tmp_path / "run"),
            )
            assert sorted(tmp_path.iterdir()) == before
            return message.replace(str(file), "FILE")

        return told

    def test_a_missing_column(self, told):
        message = told("qa", f'{json.dumps(GOOD)}\n{{"prompt": "x"}}\n')

        assert message.startswith("FILE:2: column 'completion' is missing")

    @pytest.mark.parametrize("content", [None, [1], {"a": 1}])
    def test_a_column_of_the_wrong_type(self, told, content):
        message = told("qa", f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, 'prompt': content})}\n")

        assert message.startswith("FILE:2")
        assert "'prompt'" in message

    @pytest.mark.parametrize("raw", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_an_empty_file(self, told, raw):
        assert told("qa", raw).startswith("FILE: there are no records")

    @pytest.mark.parametrize("line", ["{", "nonsense", '{"prompt": }', "[1, 2"])
    def test_invalid_json_on_a_line(self, told, line):
        message = told("qa", f"{json.dumps(GOOD)}\n\n{line}\n{json.dumps(GOOD)}\n")

        assert message.startswith("FILE:3: not valid JSON")

    def test_a_line_that_is_no_record(self, told):
        assert "FILE:1: a record is a mapping" in told("qa", "5\n")

    def test_several_bad_lines_are_told_together(self, told):
        message = told("qa", "{\n" + json.dumps(GOOD) + "\n{\n")

        assert "2 bad rows" in message
        assert "FILE:1" in message
        assert "FILE:3" in message

    def test_invalid_utf_8(self, told):
        raw = json.dumps(GOOD).encode() + b"\n" + '{"prompt": "안녕"}'.encode("cp949") + b"\n"

        assert told("qa", raw).startswith("FILE:2: byte 0x")

    def test_an_unknown_role(self, told):
        messages = [TURN, {"role": "robot", "content": "y"}]

        message = told("chat", json.dumps({"messages": messages}))

        assert message.startswith("FILE:1")
        assert "robot" in message

    def test_no_assistant_turn(self, told):
        message = told("chat", json.dumps({"messages": [TURN]}))

        assert message.startswith("FILE:1")
        assert "assistant" in message or "nothing in it is learned" in message

    @pytest.mark.parametrize("messages", ["text", [], [5], [{"role": "user"}], None])
    def test_messages_that_are_none(self, told, messages):
        assert told("chat", json.dumps({"messages": messages})).startswith("FILE:1")

    def test_a_file_that_is_not_there(self, refused, tmp_path):
        message = refused(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char:unk", "--data"),
            *(tmp_path / "gone.jsonl", "--output", tmp_path / "run"),
        )

        assert "gone.jsonl: there is no such file" in message


class TestTasksAndFlags:
    def test_an_unknown_task_lists_the_near_ones_and_where_they_come_from(self, refused):
        message = refused("show", "alpcaa")

        assert "no task named 'alpcaa'" in message
        assert "close to: alpaca" in message
        assert "lmkit plugins" in message

    def test_an_unknown_sampling_flag_is_usage_with_the_near_name(self, lmkit):
        done = lmkit("generate", "bundle", "--set", "prompt=x", "--temprature", "1")

        assert done.code == 2
        assert "--temprature" in done.err
        assert "--temperature" in done.err
        assert "Traceback" not in done.err

    @pytest.mark.parametrize(
        ("flag", "given", "words"),
        [
            ("--temperature", -1, "temperature is -1"),
            ("--top-p", 0, "top_p is 0"),
            ("--top-k", -1, "top_k is -1"),
            ("--min-p", 1, "min_p is 1"),
            ("--max-new-tokens", 0, "max_new_tokens is 0"),
            ("--repetition-penalty", 0, "repetition_penalty is 0"),
            ("--seed", -1, "seed is -1"),
            ("--temperature", "nan", "temperature is nan"),
        ],
    )
    def test_a_setting_out_of_range_is_told_before_anything_is_loaded(
        self, refused, flag, given, words
    ):
        """The bundle does not even exist."""
        message = refused("generate", "no-such-bundle", "--set", "prompt=x", flag, given)

        assert words in message
        assert "no-such-bundle" not in message

    @pytest.mark.slow
    def test_an_unknown_training_argument(self, refused, tmp_path, jsonl):
        message = refused(
            *("train", "qa", "--model", MODEL, "--tokenizer", "char:unk", "--data", jsonl([GOOD])),
            *("--output", tmp_path / "run", "--set", "lerning_rate=1"),
        )

        assert "'lerning_rate'" in message
        assert "learning_rate" in message
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
class TestBundles:
    def ask(self, refused, bundle):
        return refused("generate", bundle, "--set", "prompt=x")

    @pytest.mark.parametrize(
        "name", ["model.onnx", "model.onnx.data", "tokenizer.json", "README.md"]
    )
    def test_a_byte_flipped(self, refused, copied_bundle, name):
        raw = bytearray((copied_bundle / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (copied_bundle / name).write_bytes(raw)

        whole = ("generate", copied_bundle, "--set", "prompt=x", "--verify")
        for command in (whole, ("verify", copied_bundle)):
            assert f"'{name}' is not what was written" in refused(*command)

    def change(self, bundle, change):
        path = bundle / "lmkit.json"
        data = json.loads(path.read_text("utf-8"))
        change(data)
        path.write_text(json.dumps(data), "utf-8")

    def test_a_future_schema(self, refused, copied_bundle):
        self.change(copied_bundle, lambda data: data.update(schema=7, lmkit="3.0"))

        message = self.ask(refused, copied_bundle)
        assert "schema 7, written by lmkit 3.0" in message
        assert "pip install --upgrade lmkit-tasks" in message

    def test_a_missing_plugin(self, refused, copied_bundle):
        def change(data):
            data["task"]["decoder"] = {"type": "haiku:Verses"}
            data["plugins"] = [{"plugin": "haiku", "distribution": "lmkit-haiku", "version": "0.2"}]

        self.change(copied_bundle, change)

        assert "pip install 'lmkit-haiku==0.2'" in self.ask(refused, copied_bundle)

    @pytest.mark.parametrize("source", ["gone", ".", "data.jsonl"])
    def test_what_is_no_bundle(self, refused, tmp_path, monkeypatch, jsonl, source):
        monkeypatch.chdir(tmp_path)
        jsonl([GOOD])

        assert f"'{source}'" in self.ask(refused, source)
        assert f"'{source}'" in refused("verify", source)

    def test_a_column_that_the_task_does_not_read(self, refused, tiny_bundle):
        """Though none need be missing, where a misspelt one is read only if it is there."""
        message = refused("generate", tiny_bundle, "--set", "prompt=x", "--set", "promt=y")

        assert "no column named 'promt'\n  close to: prompt" in message

    def test_a_missing_column_names_what_the_record_has(self, refused, tiny_bundle, jsonl):
        message = refused("generate", tiny_bundle, "--input", jsonl([{"promt": "x"}]))

        assert "column 'prompt' is missing; the record has promt" in message

    def test_a_bad_record_late_in_a_file_is_told_before_the_first_is_answered(
        self, refused, tiny_bundle, tmp_path, jsonl
    ):
        source = jsonl([*ROWS[:9], {"question": "x"}])

        message = refused(
            "generate", tiny_bundle, "--input", source, "--output", tmp_path / "out.jsonl"
        )

        assert message.startswith(f"{source}:10: column 'prompt' is missing")
        assert not (tmp_path / "out.jsonl").exists()

    def test_a_prompt_that_is_too_long_is_named_with_its_line(self, refused, tiny_bundle, jsonl):
        source = jsonl([*ROWS[:2], {"prompt": "날씨" * 200}])

        message = refused("generate", tiny_bundle, "--input", source)

        assert message.startswith(f"{source}:3: the prompt has ")
        assert "holds 128" in message

    @pytest.mark.parametrize("output", ["file/answers.jsonl", "folder"])
    def test_an_output_that_cannot_be_written(self, refused, tiny_bundle, tmp_path, jsonl, output):
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()

        message = refused(
            "generate", tiny_bundle, "--input", jsonl(ROWS[:1]), "--output", tmp_path / output
        )

        assert str(tmp_path / output) in message

    def test_a_full_disk_while_answering(self, refused, tiny_bundle, jsonl):
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no device that is always full")

        message = refused(
            "generate", tiny_bundle, "--input", jsonl(ROWS[:1]), "--output", "/dev/full"
        )

        assert "No space left on device" in message


@pytest.mark.slow
class TestExport:
    def test_an_output_that_exists(self, refused, tiny_run, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("mine")

        message = refused("export", tiny_run, "--output", tmp_path / "out")

        assert f"'{tmp_path / 'out'}' already exists" in message
        assert "--force" in message
        assert (tmp_path / "out" / "mine").read_text() == "mine"

    def test_a_full_disk(self, refused, tiny_run, tmp_path, monkeypatch):
        def full(*args, **named):
            raise OSError(28, "No space left on device")

        from lmkit.export.external import Weights

        monkeypatch.setattr(Weights, "save", full)

        message = refused("export", tiny_run, "--output", tmp_path / "out")

        assert "out' cannot be written: No space left on device" in message
        assert list(tmp_path.iterdir()) == []

    def test_ctrl_c_leaves_nothing_and_is_130(self, tiny_run, tmp_path):
        script = (
            "import os, signal, sys\n"
            # A shell's background job, such as a nightly one, ignores Ctrl-C from the start.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from lmkit.export.external import Weights\n"
            "def half(self, graphs, data):\n"
            "    (self._folder / data).write_bytes(b'half')\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "Weights.save = half\n"
            "from lmkit.cli.main import main; main(sys.argv[1:])\n"
        )

        done = subprocess.run(
            [sys.executable, "-c", script, "export", tiny_run, "--output", tmp_path / "out"],
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 128 + signal.SIGINT
        assert done.stderr.endswith("error: interrupted\n")
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_no_run(self, refused, tmp_path):
        message = refused("export", tmp_path, "--output", tmp_path / "out")

        assert "has no task.json" in message
        assert "--task" in message
