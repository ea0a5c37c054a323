"""Read a Dockerfile, and do on this machine what it says, below a folder that stands for its root.

As much of the language as ours uses. Both stages have one root; where the last one begins, all is
taken out of it but what that stage copies from the first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# The folders that the image has and others have not.
ROOTS = re.compile(r"(?<![\w./])/(opt|srv|src)\b")


class Step(NamedTuple):
    """One instruction, its continued lines joined."""

    word: str
    rest: str


def steps(text: str) -> list[Step]:
    """Return the instructions in order.

    >>> steps("# a\\nRUN a \\\\\\n  && b\\nUSER 1")
    [Step(word='RUN', rest='a && b'), Step(word='USER', rest='1')]
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def last_stage(text: str) -> list[Step]:
    """Return the instructions of the stage that the image is."""
    found = steps(text)
    return found[max(place for place, step in enumerate(found) if step.word == "FROM") :]


def value(stage: list[Step], word: str) -> str:
    """Return what an instruction that stands once in a stage says."""
    [found] = [step.rest for step in stage if step.word == word]
    return found


class Machine:
    """A folder that stands for an image's root, and what is set in it.

    Args:
        root: the folder.
        context: what is sent to the build.
        given: the build's arguments.
    """

    def __init__(self, root: Path, context: Path, given: dict[str, str]) -> None:
        self.root, self.context = root, context
        self.arguments = given
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "HOME": str(root),
            **{name: value for name, value in os.environ.items() if _is_for_pip(name)},
        }
        self._folder = root

    def build(self, text: str) -> None:
        """Do all that changes files or the environment."""
        stages = 0
        last = last_stage(text)
        for step in steps(text):
            if step.word == "FROM":
                stages += 1
                if stages > 1:
                    self._keep_what_is_copied(last)
            elif step.word == "WORKDIR":
                self._folder = self.at(step.rest)
                self._folder.mkdir(parents=True)
            elif step.word == "COPY":
                self._copy(step.rest.split())
            elif step.word == "RUN":
                subprocess.run(
                    self.here(step.rest),
                    shell=True,
                    check=True,
                    cwd=self._folder,
                    env=self.environ,
                    stdout=subprocess.DEVNULL,
                )
            elif step.word == "ENV":
                for name, content in re.findall(r"(\w+)=(\S+)", step.rest):
                    before = self.environ.get(name, "")
                    self.environ[name] = self.here(content).replace(f"${name}", before)

    def at(self, path: str) -> Path:
        """Return where one of the image's paths is here."""
        return self.root / path.lstrip("/")

    def here(self, text: str) -> str:
        """Return a text with the image's paths as they are here."""
        return ROOTS.sub(lambda found: f"{self.root}/{found[1]}", text)

    def command(self, rest: str) -> list[str]:
        """Return a command that is written as JSON."""
        return [self.here(word) for word in json.loads(rest)]

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            assert self.at(words[1]).exists()
            assert words[1] == words[2]
            return
        *sources, target = [re.sub(r"\$\{(\w+)\}", self._argument, word) for word in words]
        place = self.at(target) if target.startswith("/") else self._folder / target
        for source in sources:
            origin = self.context / source
            if origin.is_dir():
                shutil.copytree(origin, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, place)

    def _argument(self, found: re.Match[str]) -> str:
        return self.arguments[found[1]]

    def _keep_what_is_copied(self, stage: list[Step]) -> None:
        kept = [
            self.at(step.rest.split()[1])
            for step in stage
            if step.word == "COPY" and step.rest.startswith("--from=")
        ]
        for folder in list(self.root.iterdir()):
            if not any(path.is_relative_to(folder) for path in kept):
                shutil.rmtree(folder)


def _is_for_pip(name: str) -> bool:
    return name.startswith(("PIP_", "SSL_CERT")) or name.lower().endswith("_proxy")
