"""Check what every task promises, in the order of a record's way."""

from __future__ import annotations

import importlib
import tempfile
import time
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmkit
from lmkit.errors import LmkitError, MissingExtra, RecordError, TaskError, UnknownName
from lmkit.formatting import Record
from lmkit.records import Row
from lmkit.task import Task
from lmkit.testing.broken import Broken, DoesNotApply, PromiseBroken
from lmkit.testing.case import Case
from lmkit.testing.report import Outcome, Report
from lmkit.testing.toys import small_tokenizers
from lmkit.tokenizing import Tokenizer
from lmkit.transforms import transformed

_MODULES = {  # in the order of a record's way
    "columns": "columns",
    "json": "json_form",
    "light_import": "light_import",
    "prompt": "prompt",
    "end": "end",
    "nothing_to_learn": "nothing_to_learn",
    "decode": "decode",
    "overfits": "overfits",
    "exports": "exports",
}
PROMISES = tuple(_MODULES)
QUICK = PROMISES[:-2]
"""The promises that need neither torch nor onnx and take no longer than a second."""

reports: list[Report] = []
"""Of all checks in this process, for the pytest plugin to say what was left out."""


def check_task(
    task: Task,
    records: Iterable[Record],
    tokenizer: Any = None,
    *,
    promises: Sequence[str] | None = None,
) -> Report:
    """Check that a task keeps the promises that every task makes.

    - `columns`: the formatter reads the columns that it names, and its prompt none of the answer's.
    - `json`: the task becomes JSON and comes back the same.
    - `light_import`: the modules that define it import no torch.
    - `prompt`: the prompt's ids are the first of the training row, of a seq2seq one its source;
      a masked one is framed as its row; and a control token that a record spells out does not act.
    - `end`: the last token that is learned is what stops an answer.
    - `nothing_to_learn`: every record teaches something, a blank answer and padding nothing.
    - `decode`: the decoder reads a record's own answer as what the record says.
    - `overfits`: a tiny model learns ten records by heart and repeats them.
    - `exports`: its bundle answers the same in a process without torch.

    The whole takes less than a minute on two cores, offline. Without torch the last two are left
    out, without onnx the last; the report says so.

    Args:
        task: the task.
        records: training records, their answers included; ten of unlike prompts are best.
        tokenizer: anything that `encode` takes; None for several small ones, the toy among them.
            One with more than 16,000 tokens is too large for `overfits` and `exports`, which then
            use one that is made from the records.
        promises: the names of those to check, in any order, such as `QUICK`; None for all.
    Returns:
        What was kept, how long each promise took, and what was left out and why.
    Raises:
        PromiseBroken: the task breaks one; the text says which, shows the record with what is
            learned of it, and says what to try.
        TaskError: there is no record to check it with.
        UnknownName: there is no such promise.
    """
    __tracebackhide__ = True  # pytest then shows the test's own line
    chosen = _chosen(promises)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="lmkit-check-") as folder:
        found = _case(task, records, tokenizer, Path(folder))
        broken = found if isinstance(found, PromiseBroken) else _run(found, chosen, outcomes)
    if broken is not None:
        raise broken
    report = Report(task.name, tuple(outcomes))
    reports.append(report)
    return report


def _chosen(promises: Sequence[str] | None) -> list[str]:
    if promises is None:
        return list(PROMISES)
    asked = [promises] if isinstance(promises, str) else list(promises)
    for name in asked:
        if name not in PROMISES:
            raise UnknownName("promise", name, PROMISES)
    return [name for name in PROMISES if name in asked]


def _case(
    task: Task, records: Iterable[Record], tokenizer: Any, folder: Path
) -> Case | PromiseBroken:
    """Return what is to be checked; or that the task's own transforms fail."""
    records = list(records)
    if not records:
        raise TaskError(f"task '{task.name}' cannot be checked without a record")
    try:
        rows = transformed(task.transforms, records, name="records")
    except RecordError as error:
        problem = f"its transforms fail: {error}"
        return _without_frames(PromiseBroken(task.name, "columns", problem), error)
    tokenizers = (
        small_tokenizers(task.family)
        if tokenizer is None
        else {"the one that was given": Tokenizer.load(tokenizer)}
    )
    named = [Row(row, row.where.replace("records:", "record ")) for row in rows]
    return Case(
        task=task.evolve(transforms=()),
        declared=task,
        records=tuple(named),
        tokenizers=tokenizers,
        folder=folder,
        given=tokenizer is not None,
    )


def _run(case: Case, names: Sequence[str], outcomes: list[Outcome]) -> PromiseBroken | None:
    """Check promises up to the first that is broken, and add the others' outcomes."""
    for name in names:
        outcome = _outcome(name, case)
        if isinstance(outcome, PromiseBroken):
            return outcome
        outcomes.append(outcome)
    return None


def _outcome(name: str, case: Case) -> Outcome | PromiseBroken:
    """Check one promise."""
    started = time.perf_counter()
    skipped, lacking = "", False
    case.current = None
    try:
        importlib.import_module(f"lmkit.testing.promises.{_MODULES[name]}").check(case)
    except DoesNotApply as reason:
        skipped = str(reason)
    except MissingExtra as error:
        skipped, lacking = str(error), True
    except Broken as broken:
        return _without_frames(_told(case, name, broken), broken.__cause__)
    except LmkitError as error:
        return _without_frames(_told(case, name, Broken(_first(error))), error)
    except Exception as error:  # whatever the task's own parts raise
        problem = f"it fails with {type(error).__name__}: {_first(error)}"
        return _without_frames(_told(case, name, Broken(problem)), error)
    seconds = time.perf_counter() - started
    return Outcome(promise=name, seconds=seconds, skipped=skipped, lacking=lacking)


def _first(error: Exception) -> str:
    return str(error).strip() or "without a word"


def _told(case: Case, name: str, broken: Broken) -> PromiseBroken:
    problem, *more = broken.problem.splitlines()
    return PromiseBroken(
        case.task.name,
        name,
        problem,
        record=case.current,
        facts={
            "because": "\n".join(more),
            **case.facts(),
            **broken.facts,
            "try": broken.hint,
        },
    )


def _without_frames(broken: PromiseBroken, cause: BaseException | None) -> PromiseBroken:
    """Return an error whose cause shows where the task's own code failed, and nothing of lmkit's.

    An error of lmkit's own has said all there is to say.
    """
    broken.__suppress_context__ = True
    if cause is None or isinstance(cause, LmkitError):
        return broken
    kept = None
    frames = []
    trace = cause.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    ours = str(Path(lmkit.__file__).parent)
    for frame in reversed(frames):
        if not frame.tb_frame.f_code.co_filename.startswith(ours):
            kept = types.TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    if kept is not None:
        broken.__cause__ = cause.with_traceback(kept)
    return broken
