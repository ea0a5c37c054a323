"""The task's bundle answers as the model does, in a process without torch."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import attrs

from lmkit.answering.filling import posed
from lmkit.collating import Stream
from lmkit.decoding import Answer
from lmkit.errors import LmkitError
from lmkit.family import Family
from lmkit.records import Row
from lmkit.testing.broken import Broken
from lmkit.testing.case import Case
from lmkit.testing.elsewhere import ProcessFailed, asked_elsewhere
from lmkit.testing.learning import STEPS, Learned, pupil_of, taught, unnoticed
from lmkit.testing.promises.overfits import need

ASKED = 5  # records
CLOSE = 1e-3  # how far a probability may be from torch's

WITHOUT = ("torch", "transformers", "datasets", "accelerate", "peft", "onnx", "onnxscript")

_ASK = """
import sys
from lmkit.testing.promises.exports import answer
answer(sys.argv[1], sys.argv[2])
"""


def check(case: Case) -> None:
    """Export what learned the rows, and ask the bundle where no torch can be imported.

    Raises:
        Broken: there is no bundle, or it answers otherwise than torch.
        DoesNotApply: every record is too long for a tiny model.
        MissingExtra: torch or onnx are not installed.
    """
    need("export", "export", "torch", "transformers", "accelerate", "onnx", "onnxscript")
    from lmkit.export.bundle import export

    learned: Learned | None = case.kept.get("learned")
    if learned is None:  # nobody asked whether it overfits
        learned = taught(case, pupil_of(case), STEPS[case.task.family][0])
    case.current = None
    folder = case.folder / "bundle"
    rows = _asked(learned)
    try:
        with unnoticed():
            export(learned.path, output=folder, data=list(learned.pupil.rows), timed=False)
    except LmkitError as error:
        raise Broken(f"it cannot be exported: {error}", "look at what the text says") from error
    through_torch = [written(answer) for answer in learned.model.batch(rows)]
    for row, torch_says, bundle_says in zip(
        rows, through_torch, _without_torch(folder, rows), strict=True
    ):
        if not alike(torch_says, bundle_says):
            case.current = Row({**row}, getattr(row, "where", ""))
            raise Broken(
                "its bundle answers otherwise where there is no torch",
                "let the decoder depend on its fields and the text alone: nothing else is in a bundle",
                torch=json.dumps(torch_says["value"], ensure_ascii=False),
                bundle=json.dumps(bundle_says["value"], ensure_ascii=False),
            )


def _asked(learned: Learned) -> list[Row]:
    """Return records as a model is asked them."""
    task, tokenizer = learned.model.task, learned.model.tokenizer
    rows = learned.pupil.rows[:ASKED]
    if isinstance(task.collator, Stream):
        return [Row({c: str(row[c])[:20] for c in row}, row.where) for row in rows]
    if task.family is Family.MASKED:
        return [posed(task, row, tokenizer) for row in rows]
    return list(rows)


def _without_torch(folder: Path, rows: list[Row]) -> list[dict[str, Any]]:
    asked = folder.parent / "asked.json"
    asked.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    try:
        found: list[dict[str, Any]] = asked_elsewhere(_ASK, str(folder), str(asked))
    except ProcessFailed as error:
        raise Broken(
            f"its bundle does not answer where there is no torch: {error}",
            "import nothing in a formatter or a decoder that the base install lacks",
        ) from error
    return found


def answer(folder: str, asked: str) -> None:
    """Answer records through a bundle and print what it says, in a process that has no torch."""
    for name in WITHOUT:
        sys.modules[name] = None  # type: ignore[assignment]
    from lmkit.runtime.opening import load

    model = load(folder, verify=False)
    rows = json.loads(Path(asked).read_text("utf-8"))
    print(json.dumps([written(found) for found in model.batch(rows)]))


def written(answer: Answer) -> dict[str, Any]:
    """Return what an answer says in plain values, which another process can compare."""
    return {
        "value": _plain(answer.value),
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "probabilities": dict(answer.probabilities or {}),
    }


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {"type": type(value).__name__, **_plain(attrs.asdict(value, recurse=False))}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def alike(one: Any, other: Any) -> bool:
    """Say whether two plain values are the same, numbers nearly so."""
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
        return numbers and math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)
