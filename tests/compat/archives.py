"""The runs and bundles that earlier versions saved; `save.py` made them, and nothing makes them anew."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import attrs

SAVED = Path(__file__).parent / "saved"
# Of a third party's task, whose module of that time lies beside it.
HAIKU = SAVED / "issue-2-haiku.zip"
ARCHIVES = sorted({*SAVED.glob("*.zip")} - {HAIKU})


@attrs.frozen
class Saved:
    """One archive, unpacked.

    Attributes:
        name: such as `issue-3-causal`.
        folder: where its `run` and `bundle` are.
    """

    name: str
    folder: Path

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def answers(self) -> list[dict[str, Any]]:
        """What the bundle answered greedily when it was saved."""
        answers: list[dict[str, Any]] = json.loads(
            (self.folder / "answers.json").read_text("utf-8")
        )
        return answers

    @property
    def options(self) -> dict[str, Any]:
        """What they were asked with."""
        free = self.kind in ("causal", "chat", "seq2seq", "haiku")
        return {"max_new_tokens": 24, "temperature": 0} if free else {}

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text("utf-8"))


def unpacked(archive: Path, folder: Path) -> Saved:
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    return Saved(archive.stem, folder)
