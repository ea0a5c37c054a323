"""Run a page of the documentation as its reader would, block by block, in one folder.

```{code-block} python     what stands in a file: it is written under the caption
:caption: lmkit_paint.py
```
```sh                      commands, run by bash; `lmkit` is the one under test
```python                  statements, run in one namespace for the whole page
```text                    what the block before it printed: lines in order, `...` for others
<!-- fails -->             the next block exits with an error
<!-- not run: why -->      the next block is only to be read
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs

from lmkit.cli.main import run

DOCS = Path(__file__).parents[2] / "docs"
RUN = ("python", "sh")
SHOWN = ("text", "json")
_BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?:\{code-block\} )?(?P<language>\w+)\n"
    r"(?P<options>(?::[\w-]+:[^\n]*\n)*)(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"<!-- (.*?) -->\s*\Z")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@attrs.frozen
class Block:
    """One fenced block of a page.

    Attributes:
        language: what stands behind the fence.
        text: what is in it.
        line: where it begins in the page, from 1.
        file: the file that it is the content of, if it is.
        note: what the comment before it says.
    """

    language: str
    text: str
    line: int
    file: str = ""
    note: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is something to do."""
        return self.language in RUN and not self.file and not self.note.startswith("not run")

    @property
    def shows(self) -> bool:
        """Whether it is what the block before it printed."""
        return self.language in SHOWN and not self.file and not self.note.startswith("not run")


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield a page's blocks of code."""
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        note = _NOTE.search(text[: match.start()])
        caption = re.search(r"^:caption: (.*)$", match["options"], re.MULTILINE)
        yield Block(
            match["language"],
            match["text"].lstrip("\n"),
            text.count("\n", 0, match.start()) + 1,
            file=caption[1] if caption else "",
            note=note[1] if note else "",
        )


@attrs.define
class Reader:
    """Somebody who follows pages in a folder.

    Attributes:
        folder: where they work.
        environ: the environment of their shell.
        instead: what is to be read for some words of a page, such as a port that is taken.
        inside: whether blocks of nothing but `lmkit` are run in this process, where torch has been
            imported already.
    """

    folder: Path
    environ: dict[str, str] = attrs.field(factory=dict)
    inside: bool = False
    instead: dict[str, str] = attrs.field(factory=dict)

    def follow(self, page: Path) -> None:
        """Do all that a page says, and see that what it shows is what comes."""
        space: dict[str, Any] = {"__name__": "__main__"}
        printed = None
        for block in map(self._meant, blocks_of(page)):
            name = page.relative_to(DOCS) if page.is_relative_to(DOCS) else page.name
            place = f"{name}:{block.line}"
            if block.file:
                self._write(block)
            elif block.runs:
                printed = self._run(block, space, place)
            elif block.shows:
                assert printed is not None, f"{place}: nothing was run whose output this could be"
                check_shown(block.text, printed, place)

    def _meant(self, block: Block) -> Block:
        text = block.text
        for word, other in self.instead.items():
            text = text.replace(word, other)
        return attrs.evolve(block, text=text)

    def _write(self, block: Block) -> None:
        file = self.folder / block.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, "utf-8")

    def _run(self, block: Block, space: dict[str, Any], place: str) -> str:
        if block.language == "python":
            return self._execute(block, space, place)
        calls = _calls(block.text) if self.inside else None
        code, printed = self._shell(block) if calls is None else self._called(calls)
        fails = block.note == "fails"
        assert (code != 0) == fails, f"{place} exited with {code}:\n{printed}"
        return printed

    def _execute(self, block: Block, space: dict[str, Any], place: str) -> str:
        out = io.StringIO()
        program = compile("\n" * block.line + block.text, place, "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out):
            exec(program, space)
        return out.getvalue()

    def _called(self, calls: list[list[str]]) -> tuple[int, str]:
        out = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            code = next(filter(None, map(run, calls)), 0)
        return code, out.getvalue()

    def _shell(self, block: Block) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-euc", block.text],
            cwd=self.folder,
            env=os.environ | {"PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"} | self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stdout


def _calls(text: str) -> list[list[str]] | None:
    """Return the arguments of each `lmkit` that a block calls, or None if it does anything else."""
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]
    # What needs a shell, or plugins that are not cached.
    outside = {"|", ">", "<", "&&", "--plugin"}
    if any(line[:1] != ["lmkit"] or outside & {*line} for line in lines):
        return None
    return [line[1:] for line in lines]


def check_shown(shown: str, printed: str, place: str) -> None:
    """Check that what a page shows was printed: its lines, in their order, none between them.

    A line `...` stands for any number of lines, and `...` within one for any text. How wide a gap is
    does not count, so that a table's columns may be as wide as they like.
    """
    found = [_narrow(line) for line in _COLOUR.sub("", printed).splitlines()]
    position, free = 0, True
    for line in shown.splitlines():
        wanted = _narrow(line)
        if wanted == "...":
            free = True
            continue
        if not wanted and free:
            continue
        where = next((i for i in range(position, len(found)) if _is(found[i], wanted)), None)
        near = "\n".join(found)
        assert where is not None, (
            f"{place}: {wanted!r} was not printed behind the lines before:\n{near}"
        )
        assert free or where == position, f"{place}: {found[position]!r} comes before {wanted!r}"
        position, free = where + 1, False


def _narrow(line: str) -> str:
    return re.sub(r"(?<=\S) {2,}", "  ", line.rstrip())


def _is(found: str, wanted: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), found) is not None


def programs(folder: Path, python: str = sys.executable) -> dict[str, str]:
    """Make `lmkit`, `pytest` and `python` commands of an interpreter; return the PATH to find them."""
    folder.mkdir()
    for name, call in {"lmkit": "-m lmkit", "pytest": "-m pytest", "python": ""}.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec "{python}" {call} "$@"\n', "utf-8")
        file.chmod(0o755)
    environ = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    if not entry_points(group="pytest11", name="lmkit"):  # a checkout that is not installed
        environ["PYTEST_PLUGINS"] = "lmkit.testing.pytest_plugin"
    return environ
