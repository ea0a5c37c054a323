"""The README in two languages: its commands, its code, and where its links lead."""

import json
import re
import shlex

import pytest

import lmkit as lk
from lmkit.cli.main import cli

from .snippets import DOCS, Reader, blocks_of
from .test_howto import SHAPE

ROOT = DOCS.parent
ENGLISH, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"
COMMANDS = (
    "pip install -c constraints.txt '.[export]' && lmkit demo",
    "pip install -c constraints.txt tox && tox",
)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
BOTH = pytest.mark.parametrize("readme", [ENGLISH, KOREAN], ids=["en", "ko"])


@BOTH
def test_the_two_commands_stand_there_word_for_word(readme):
    """CI runs them, and so does whoever checks the repository from outside."""
    shown = [block.text.strip() for block in blocks_of(readme)]

    assert [command for command in COMMANDS if command not in shown] == []


@BOTH
def test_every_link_leads_somewhere(readme):
    found = LINK.findall(readme.read_text("utf-8"))

    assert len(found) > 12
    assert [link for link in found if not (ROOT / link).exists()] == []


@BOTH
def test_it_is_short(readme):
    assert len(readme.read_text("utf-8").splitlines()) <= 110


def test_both_say_the_same():
    english, korean = (readme.read_text("utf-8") for readme in (ENGLISH, KOREAN))
    links = [LINK.findall(text) for text in (english, korean)]

    assert [block.text for block in blocks_of(KOREAN)] == [b.text for b in blocks_of(ENGLISH)]
    assert [link.replace(".ko.", ".") for link in links[0]] == [
        link.replace(".ko.", ".") for link in links[1]
    ]
    for mark in (r"^## ", r"^- "):
        assert len(re.findall(mark, english, re.M)) == len(re.findall(mark, korean, re.M))


def test_its_task_is_about_fifteen_lines():
    [block] = [block for block in blocks_of(ENGLISH) if block.language == "python"]

    assert len(block.text.splitlines()) <= 16


def test_its_shell_says_what_its_verbs_understand():
    [shell] = [block.text for block in blocks_of(ENGLISH) if block.text.startswith("lmkit preview")]
    for verb, *arguments in (shlex.split(line)[1:] for line in shell.splitlines()):
        command = cli.get_command(None, verb)

        assert command.make_context(verb, arguments).params


@pytest.mark.slow
def test_its_task_works(tmp_path):
    """Of a model and records that the README only names."""
    transformers = pytest.importorskip("transformers")
    base = tmp_path / "models" / "base"
    rows = [{"name": "하늘색", "colour": "#87ceeb"}, {"name": "black", "colour": "#000000"}] * 8
    (tmp_path / "paint.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    tokenizer = lk.train_tokenizer(kind="bpe", vocab_size=400, data=rows)
    base.mkdir(parents=True)
    tokenizer.save(base)
    config = SHAPE | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_id}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).save_pretrained(base)
    [python] = [block.text for block in blocks_of(ENGLISH) if block.language == "python"]
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{python}```\n", "utf-8")
    Reader(tmp_path).follow(page)

    assert lk.load(tmp_path / "bundles" / "paint").task.name == "paint"
