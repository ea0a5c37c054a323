"""Report: a run's folder becomes one HTML file that says what was trained, how, and how it went.

It is made from the folder's files alone, so it can be written anew at any time. It loads nothing
from a network and runs no script.
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmkit.errors import LmkitError, MissingExtra, ModelError
from lmkit.files import write_atomically
from lmkit.previewing import Preview
from lmkit.train.curves import Steps, curve, read_steps, sayings
from lmkit.train.folder import TASK_FILE, read_about
from lmkit.train.plots import DASHES, Line, draw

if TYPE_CHECKING:
    import jinja2

REPORT_FILE, PREVIEW_FILE, SAMPLES_FILE = "report.html", "preview.json", "samples.jsonl"
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
    return _template().render(
        about=about,
        name="+".join(names),
        tasks=_tasks(task),
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
        "started": about.get("started", ""),
        "ended": last.get("ended", ""),
        "seconds": seconds if ended else None,
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _last_figures(steps: Steps, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a reader looks for first, each figure's last value, and its first one."""
    names = {
        "loss": "Training loss",
        "eval_loss": "Evaluation loss",
        "eval_perplexity": "Evaluation perplexity",
        "eval_task_loss": "Evaluation loss of the task's own kind",
    }
    found: list[dict[str, Any]] = []
    for key, name in names.items():
        if points := curve(steps, key):
            found.append({"name": name, "task": "", "first": points[0], "last": points[-1]})
    for task in tasks if len(tasks) > 1 else ():
        if points := curve(steps, f"eval_{task}_perplexity"):
            found.append(
                {"name": "Perplexity", "task": task, "first": points[0], "last": points[-1]}
            )
    return found


def _plots(steps: Steps, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures over the steps, drawn, each with its lines' names."""
    several = tasks if len(tasks) > 1 else ()
    wanted: list[tuple[str, str, list[tuple[str, str, bool]]]] = [
        (
            "loss",
            "Loss",
            [("loss", "training", False), ("eval_loss", "evaluation", True)],
        ),
        ("perplexity", "Evaluation perplexity", [("eval_perplexity", "evaluation", True)]),
        ("rate", "Learning rate", [("learning_rate", "learning rate", False)]),
        ("gradient", "Gradient norm", [("grad_norm", "gradient norm", False)]),
    ]
    if several:
        by_task = [(f"loss_{task}", task, False) for task in several]
        measured = [(f"eval_{task}_loss", task, True) for task in several]
        wanted[1:1] = [
            ("tasks", "Training loss by task", by_task),
            ("measured", "Evaluation loss by task", measured),
        ]
    plots = []
    for key, title, parts in wanted:
        lines = [
            Line(name=name, steps=at, figures=figures, marked=marked, style=place % len(DASHES))
            for place, (figure, name, marked) in enumerate(parts)
            if (found := curve(steps, figure))
            for at, figures in [tuple(zip(*found, strict=True))]
        ]
        if lines:
            spread = [figure for line in lines for figure in line.figures if math.isfinite(figure)]
            wide = (
                key != "rate"
                and bool(spread)
                and min(spread) > 0
                and max(spread) > 30 * min(spread)
            )
            svg = draw(lines, name=f"plot-{key}", logarithmic=wide)
            plots.append({"title": title, "svg": svg, "lines": lines, "logarithmic": wide})
    return plots


def _table(steps: Steps, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the logged figures as rows; of many, some from the first to the last."""
    columns = {
        "loss": "training loss",
        "eval_loss": "evaluation loss",
        "eval_perplexity": "evaluation perplexity",
        "learning_rate": "learning rate",
        "grad_norm": "gradient norm",
    }
    if len(tasks) > 1:
        columns |= {f"loss_{task}": f"training loss: {task}" for task in tasks}
        columns |= {f"eval_{task}_loss": f"evaluation loss: {task}" for task in tasks}
    columns = {key: name for key, name in columns.items() if curve(steps, key)}
    rows = [
        (step, [figures.get(key) for key in columns])
        for step, figures in steps.items()
        if any(key in figures for key in columns)
    ]
    every = math.ceil(len(rows) / MOST_ROWS)
    shown = rows[::every] if rows else []
    if shown and shown[-1] is not rows[-1]:
        shown.append(rows[-1])
    return {"columns": list(columns.values()), "rows": shown, "of": len(rows)}


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
    import cattrs

    file = folder / PREVIEW_FILE
    if not file.is_file():
        return []
    found = json.loads(file.read_text("utf-8"))
    return [
        cattrs.structure(one, Preview) for one in (found if isinstance(found, list) else [found])
    ]


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lmkit.train", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "figure": _figure,
        "whole": lambda number: f"{number:,}",
        "duration": _duration,
        "text": _text,
        "t": _translated,
    }
    return environment.get_template("report.html.jinja")


def _translated(text: str, **figures: Any) -> str:
    return text.format(**figures) if figures else text


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
    """Return a number of seconds as it is said.

    >>> [_duration(seconds) for seconds in (8, 75, 7322)]
    ['8 s', '1 min 15 s', '2 h 2 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _text(content: Any) -> str:
    """Return an answer as text: of what is no text, its JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
