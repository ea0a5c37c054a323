"""The example plugin, loaded from its file; `tox -e plugins` uses it as an installed wheel."""

import ast
import doctest
import json
import os
import re
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import pytest

import lmkit as lk
from lmkit.errors import PluginError
from lmkit.plugins import load
from lmkit.records import read
from lmkit.saving.jsonform import from_json, to_json
from lmkit.task import Task
from lmkit.testing import QUICK, check_task, toy_tokenizer

EXAMPLE = Path(__file__).parents[1] / "examples" / "lmkit-haiku"
FILE = EXAMPLE / "lmkit_haiku.py"
DATA = EXAMPLE / "haiku.jsonl"
HEAVY = {"torch", "transformers", "datasets", "onnxruntime"}


@pytest.fixture(scope="module")
def found():
    return load([], {"LMKIT_PLUGIN_FILES": str(FILE)})


@pytest.fixture
def module(found):
    return sys.modules["lmkit_file_lmkit_haiku"]


@pytest.fixture
def plugged(found, monkeypatch):
    """Let JSON name the example's classes, as it can in a process that has the plugin."""
    home = sys.modules["lmkit.plugins"]  # `lmkit.plugins` is the function of that name
    monkeypatch.setattr(home, "installed", lambda: found)


def command(*args, stdin="", environ=(), **options):
    """Run `lmkit` in a process of its own."""
    script = "from lmkit.cli.main import main; main()"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMKIT_")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        input=stdin,
        env={**kept, "PYTHONIOENCODING": "utf-8", **dict(environ)},
        capture_output=True,
        encoding="utf-8",
        check=False,
        **options,
    )


class TestThePlugin:
    def test_it_offers_a_task_a_decoder_and_a_command(self, found):
        [row] = found.plugins

        assert row.error is None
        assert row.tasks == ("haiku",)
        assert row.components == ("lmkit_haiku:HaikuDecoder",)
        assert row.commands == ("haiku-lines",)

    def test_it_imports_only_what_lmkit_promises(self):
        """`lmkit.something` is lmkit's own business; `from lmkit import ...` is for everyone."""
        imports = [
            node
            for node in ast.walk(ast.parse(FILE.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        homes = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
        names = {
            alias.name
            for node in imports
            if isinstance(node, ast.ImportFrom) and node.module == "lmkit"
            for alias in node.names
        }
        modules = {
            alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names
        }

        assert names <= set(lk.__all__)
        assert not [home for home in homes | modules if home.startswith("lmkit.")]
        packages = {name.partition(".")[0] for name in homes | modules}
        assert packages - sys.stdlib_module_names == {"lmkit", "attrs", "click"}

    def test_listing_it_imports_nothing_heavy(self):
        script = "import lmkit, sys; lmkit.get_task('haiku'); print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LMKIT_PLUGIN_FILES": str(FILE)},
            capture_output=True,
            text=True,
            check=True,
        )

        assert not HEAVY & set(done.stdout.split())

    def test_it_is_short_enough_to_be_read_in_one_go(self):
        assert len(FILE.read_text("utf-8").splitlines()) < 90

    def test_its_doctests_hold(self, module):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0


class TestTheTask:
    @pytest.mark.usefixtures("plugged")
    def test_it_is_sound_on_every_poem(self, module):
        check_task(module.HAIKU, read(DATA), promises=QUICK)

    @pytest.mark.usefixtures("plugged")
    def test_its_json_names_the_decoder_and_comes_back_equal(self, module):
        data = json.loads(json.dumps(to_json(module.HAIKU)))

        assert data["decoder"] == {"type": "lmkit_haiku:HaikuDecoder", "lines": 3}
        assert from_json(data, Task) == module.HAIKU

    def test_its_json_is_refused_where_the_plugin_is_missing(self, module, found, monkeypatch):
        home = sys.modules["lmkit.plugins"]
        monkeypatch.setattr(home, "installed", lambda: found)
        data = to_json(module.HAIKU)
        monkeypatch.setattr(home, "installed", lambda: load([], {}))

        with pytest.raises(PluginError, match="comes from the plugin 'lmkit_haiku', which is not"):
            from_json(data, Task)

    def test_the_prompt_ends_where_the_poem_begins(self, module):
        tokenizer = toy_tokenizer()
        ids = lk.prompt_ids(module.HAIKU, {"subject": "바다"}, tokenizer)

        assert tokenizer.decode(ids.tolist()) == "subject: 바다\nhaiku:\n"

    def test_the_reference_is_read_as_an_answer_would_be(self, module):
        poem = {"subject": "바다", "haiku": "하나\n둘\n셋"}

        assert module.HAIKU.reference(poem, toy_tokenizer().dialect) == ["하나", "둘", "셋"]


class TestTheDecoder:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a\nb\nc", ["a", "b", "c"]),
            (" a \n\n b\n\t\nc\n", ["a", "b", "c"]),
            ("a\nb\nc\nand so on", ["a", "b", "c"]),
            ("a\r\nb", ["a", "b"]),
            ("\n \n", []),
            ("", []),
        ],
    )
    def test_its_value_is_the_first_three_lines_with_words_in_them(self, module, text, value):
        assert module.HaikuDecoder().read(text) == value

    def test_how_many_lines_is_a_setting(self, module):
        assert module.HaikuDecoder(lines=1).read("a\nb") == ["a"]

    @pytest.mark.parametrize("lines", [0, -1])
    def test_no_lines_at_all_are_refused(self, module, lines):
        with pytest.raises(ValueError, match="lines"):
            module.HaikuDecoder(lines=lines)


class TestSyllables:
    @pytest.mark.parametrize(
        ("line", "count"),
        [
            ("바다", 2),
            ("꽃잎 하나가, 물 위에!", 8),
            (unicodedata.normalize("NFD", "발자국을"), 4),
            ("ㅋㅋ", 0),
            ("the sea", 2),
            ("stone apple whole", 4),
            ("TO SWALLOW", 3),
            ("바다 sea", 3),
            ("", 0),
        ],
    )
    def test_hangul_is_counted_by_the_block_and_english_by_its_vowels(self, module, line, count):
        assert module.syllables(line) == count


class TestThePoems:
    def test_there_are_two_dozen_of_three_lines_half_of_them_korean(self):
        poems = read(DATA)

        assert len(poems) == 24
        assert all(set(poem) == {"subject", "haiku"} for poem in poems)
        assert all(len(poem["haiku"].split("\n")) == 3 for poem in poems)
        assert sum("가" <= poem["subject"][0] <= "힣" for poem in poems) == 12

    def test_the_korean_ones_are_five_seven_five(self, module):
        counts = [
            [module.syllables(line) for line in poem["haiku"].splitlines()]
            for poem in read(DATA)
            if "가" <= poem["subject"][0] <= "힣"
        ]

        assert counts == [[5, 7, 5]] * 12


class TestTheCommand:
    def count(self, stdin):
        return command("--plugin", FILE, "haiku-lines", "-", stdin=stdin)

    def test_a_plugin_file_named_on_the_command_line_brings_its_command(self):
        done = command("--plugin", FILE, "haiku-lines", DATA)

        assert done.stderr == ""
        assert done.stdout.splitlines()[0] == "5-7-5\t바다"
        assert len(done.stdout.splitlines()) == 24

    def test_so_does_one_named_in_the_environment(self):
        done = command("haiku-lines", DATA, environ={"LMKIT_PLUGIN_FILES": FILE})

        assert done.returncode == 0

    def test_without_the_plugin_there_is_no_such_command(self):
        assert command("haiku-lines", DATA).returncode == 2

    def test_it_reads_what_generate_wrote(self):
        answer = {"value": ["바다", "너와 나"], "text": "...", "finish_reason": "stop"}
        row = {"subject": "여름", "haiku": "not this", "answer": answer}

        assert self.count(json.dumps(row) + "\n").stdout == "2-3\t여름\n"

    def test_an_answer_without_lines_says_so(self):
        row = {"subject": "여름", "answer": {"value": []}}

        assert self.count(json.dumps(row)).stdout == "no lines\t여름\n"

    @pytest.mark.parametrize(
        "row",
        ["not json", "[]", "{}", '{"subject": "x", "haiku": 1}', '{"subject": "x", "answer": 1}'],
    )
    def test_a_row_that_is_no_poem_is_named_by_its_line(self, row):
        done = self.count('{"subject": "x", "haiku": "y"}\n' + row)

        assert done.returncode == 1
        assert done.stderr == "error: <stdin>:2: not a subject and its haiku\n"


class TestThePackage:
    def test_it_is_found_through_the_entry_point_that_the_hooks_describe(self):
        project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]

        assert project["name"] == "lmkit-haiku"
        assert project["entry-points"] == {"lmkit": {"haiku": FILE.stem}}
        assert "lmkit-tasks" in project["dependencies"]

    @pytest.mark.parametrize(
        ("language", "source"), [("python", FILE.name), ("toml", "pyproject.toml")]
    )
    def test_the_readme_quotes_what_is_there(self, language, source):
        readme = (EXAMPLE / "README.md").read_text("utf-8")
        blocks = re.findall(rf"^```{language}\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
        text = (EXAMPLE / source).read_text("utf-8")

        assert blocks
        assert [block for block in blocks if block not in text] == []
