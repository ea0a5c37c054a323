"""Report: a run's folder becomes one HTML file that says what was trained, how, and how it went.

It is made from the folder's files alone, so it can be written anew at any time. It loads nothing
from a network.
"""

from __future__ import annotations

import json
import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lmkit.errors import LmkitError, MissingExtra, ModelError
from lmkit.files import write_atomically
from lmkit.previewing import Preview
from lmkit.previewing.pieces import HERE as PREVIEW
from lmkit.previewing.pieces import by_level, document
from lmkit.previewing.saving import PREVIEW_FILE, from_json
from lmkit.train.folder import TASK_FILE, read_about
from lmkit.train.reporting.curves import Steps, curve, read_steps, sayings
from lmkit.train.reporting.plots import DASHES, Line, draw

HERE = Path(__file__).parent
REPORT_FILE, SAMPLES_FILE = "report.html", "samples.jsonl"
WIDE = 30  # figures further apart than this are drawn on a logarithmic axis
MOST_ROWS = 60  # of the table of figures; all of them are in metrics.jsonl


class ReportWarning(UserWarning):
    """A run has no report, or an old one."""


def write_or_warn(folder: Path) -> None:
    """Write a run's report; what is wrong with that is told, and is no reason to lose a training."""
    try:
        write(folder)
    except Exception as error:
        problem = error if isinstance(error, LmkitError) else f"{type(error).__name__}: {error}"
        warnings.warn(
            f"the run's {REPORT_FILE} could not be written, and all else of it is there: {problem}",
            ReportWarning,
            stacklevel=2,
        )


def write(folder: str | Path) -> Path:
    """Write the report of a run from what is in its folder, and return where it is.

    Raises:
        ModelError: the folder holds no run.
        MissingExtra: matplotlib, which draws the curves, is not installed.
        LmkitError: the disk refuses.
    """
    path = Path(folder) / REPORT_FILE
    write_atomically(path, page(path.parent))
    return path


def page(folder: Path) -> str:
    """Return the report of a run as HTML; see `write`."""
    about = read_about(folder)
    if not about:
        raise ModelError(f"'{folder}' holds no run, so there is nothing to report")
    task = json.loads((folder / TASK_FILE).read_text("utf-8"))
    names = _task_names(task)
    steps = read_steps(folder)
    try:
        plots = _plots(steps, names)
    except ModuleNotFoundError as error:
        raise MissingExtra("the report", "train", error.name) from error
    said = sayings(steps, names if len(names) > 1 else ())
    return document(
        HERE / "report.html",
        styles=[PREVIEW / "page.css", HERE / "report.css"],
        scripts=[PREVIEW / "choices.js"],
        words=[PREVIEW / "page.words.json", HERE / "report.words.json"],
        data={},
        filters={
            "by_level": by_level,
            "duration": _duration,
            "figure": _figure,
            "part": _part,
            "moment": lambda text: text.replace("T", " "),
            "text": _text,
            "words": _words,
        },
        about=about,
        name="+".join(names),
        tasks=_tasks(task),
        data_of=about["data"].get("tasks") or {names[0]: about["data"]},
        sessions=about.get("sessions", []),
        state=_state(about),
        figures=_last_figures(steps, names),
        sayings=sorted(said, key=lambda saying: saying.level != "warning"),
        plots=plots,
        dashes=DASHES,
        table=_table(steps, names),
        samples=_samples(folder),
        previews=_previews(folder),
    )


def _task_names(task: Mapping[str, Any]) -> list[str]:
    return [part["name"] for part in _tasks(task)]


def _tasks(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the task, or those of a mixture, as JSON: its plugin need not be installed."""
    return [share["task"] for share in task["shares"]] if "shares" in task else [task]


def _state(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far a run got, when, and in how many seconds of training."""
    sessions = about.get("sessions", [])
    ended = [session for session in sessions if "ended" in session]
    seconds = sum(
        (_moment(session["ended"]) - _moment(session["started"])).total_seconds()
        for session in ended
    )
    last = sessions[-1] if sessions else {}
    return {
        "finished": bool(about.get("finished")),
        "running": bool(sessions) and "ended" not in last,
        "step": last.get("step"),
        "steps": last.get("steps"),
        "kept": last.get("kept") if about.get("finished") else None,
        "started": about.get("started", ""),
        "ended": last.get("ended", ""),
        "seconds": seconds if ended else None,
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _last_figures(steps: Steps, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a reader looks for first, each figure's last value, and its first one."""
    found: list[dict[str, Any]] = []
    for key in ("loss", "eval_loss", "eval_perplexity", "eval_task_loss"):
        if points := curve(steps, key):
            word = f"figure-{key}"
            found.append({"word": word, "task": "", "first": points[0], "last": points[-1]})
    for task in tasks if len(tasks) > 1 else ():
        if points := curve(steps, f"eval_{task}_perplexity"):
            found.append(
                {"word": "task-perplexity", "task": task, "first": points[0], "last": points[-1]}
            )
    return found


def _plots(steps: Steps, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures over the steps, drawn, each with its lines' names."""
    several = tasks if len(tasks) > 1 else ()
    wanted: dict[str, list[tuple[str, str, bool]]] = {
        "loss": [("loss", "training", False), ("eval_loss", "evaluation", True)],
        "tasks": [(f"loss_{task}", task, False) for task in several],
        "measured": [(f"eval_{task}_loss", task, True) for task in several],
        "perplexity": [("eval_perplexity", "evaluation", True)],
        "rate": [("learning_rate", "training", False)],
        "gradient": [("grad_norm", "training", False)],
    }
    plots = []
    for name, parts in wanted.items():
        lines = [
            Line(name=called, steps=at, figures=figures, marked=marked, style=place % len(DASHES))
            for place, (key, called, marked) in enumerate(parts)
            if (found := curve(steps, key))
            for at, figures in [tuple(zip(*found, strict=True))]
        ]
        if lines:
            wide = name != "rate" and _is_wide([f for line in lines for f in line.figures])
            plots.append(
                {
                    "name": name,
                    "by_task": name in ("tasks", "measured"),
                    "svg": draw(
                        lines,
                        name=f"plot-{name}",
                        span=(min(steps), max(steps)),
                        logarithmic=wide,
                    ),
                    "lines": lines,
                    "logarithmic": wide,
                }
            )
    return plots


def _is_wide(figures: Sequence[float]) -> bool:
    """Say whether figures are so far apart that the small ones would lie on the axis."""
    finite = [figure for figure in figures if math.isfinite(figure)]
    return bool(finite) and min(finite) > 0 and max(finite) > WIDE * min(finite)


def _table(steps: Steps, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the logged figures as rows; of many, some from the first to the last."""
    keys = ("loss", "eval_loss", "eval_perplexity", "learning_rate", "grad_norm")
    columns = {key: (f"column-{key}", "") for key in keys}
    if len(tasks) > 1:
        columns |= {f"loss_{task}": ("column-task-loss", task) for task in tasks}
        columns |= {f"eval_{task}_loss": ("column-task-eval", task) for task in tasks}
    columns = {key: column for key, column in columns.items() if curve(steps, key)}
    rows = [
        (step, {key: figures.get(key) for key in columns})
        for step, figures in steps.items()
        if any(key in figures for key in columns)
    ]
    return {"columns": list(columns.values()), "rows": _thinned(rows), "of": len(rows)}


def _thinned(rows: Sequence[Any]) -> list[Any]:
    """Return rows, of many some from the first to the last; evaluations do not give way to others."""
    evaluated = [row for row in rows if row[1].get("eval_loss") is not None]
    others = [row for row in rows if row[1].get("eval_loss") is None]
    chosen = [
        row
        for some in (evaluated, others)
        for at, row in enumerate(some)
        if at % math.ceil(len(some) / MOST_ROWS) == 0 or at == len(some) - 1
    ]
    return sorted(chosen, key=lambda row: row[0])


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Return the records that were answered, each with its answers by step."""
    file = folder / SAMPLES_FILE
    if not file.is_file():
        return []
    by_step: dict[int, list[dict[str, Any]]] = {}
    for line in file.read_text("utf-8").splitlines():
        entry = json.loads(line)
        by_step.setdefault(entry["step"], []).append(entry)
    return [
        {
            "task": each[0].get("task", ""),
            "asked": each[0]["asked"],
            "reference": each[0]["reference"],
            "answers": [(entry["step"], entry["answer"]) for entry in each],
        }
        for each in zip(*by_step.values(), strict=True)
    ]


def _previews(folder: Path) -> list[Preview]:
    """Return what was found in the data before the training; of a mixture each task's."""
    file = folder / PREVIEW_FILE
    if not file.is_file():
        return []
    found = json.loads(file.read_text("utf-8"))
    return [from_json(one) for one in (found if isinstance(found, list) else [found])]


def _figure(number: float | None) -> str:
    """Return a figure as a reader takes it in.

    >>> [_figure(number) for number in (2.34567, 1234.5, 0.00003, None, float("nan"))]
    ['2.346', '1,234.5', '3e-05', '', 'nan']
    """
    if number is None:
        return ""
    if not math.isfinite(number):
        return str(number)
    if number and abs(number) < 1e-3:
        return f"{number:.3g}"
    return f"{number:,.1f}" if abs(number) >= 100 else f"{number:.3f}"


def _duration(seconds: float) -> str:
    """Return a number of seconds as hours, minutes and seconds.

    >>> _duration(8), _duration(7322)
    ('0:00:08', '2:02:02')
    """
    return str(timedelta(seconds=round(seconds)))


def _text(content: Any) -> str:
    """Return an answer as text: of what is no text, its JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _part(part: Mapping[str, Any]) -> str:
    """Return a task's part as it is written in Python, without what is nothing.

    >>> _part({"type": "CausalCollator", "max_length": 256, "pack": False})
    'CausalCollator(max_length=256)'
    """
    options = (f"{name}={one!r}" for name, one in part.items() if name != "type" and one)
    return f"{part['type']}({', '.join(options)})"


def _words(command: str) -> list[str]:
    """Return a command in pieces that a line should not break: a shell's words, quoted, or a call."""
    return (
        [shlex.quote(word) for word in shlex.split(command)]
        if command.startswith("lmkit ")
        else [command]
    )
