"""Verbs that only look: tasks, show, env."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING, Any

import click

from lmkit.cli.printing import json_option, print_json, print_table

if TYPE_CHECKING:
    from lmkit.formatting import Segment
    from lmkit.task import Task
    from lmkit.tokenizing import Tokenizer


@click.command(epilog="Example: lmkit tasks --json")
@json_option
def tasks(as_json: bool) -> None:
    """List the tasks that can be trained: name, family, columns, plugin, description."""
    from lmkit.plugins import installed

    found = installed()
    rows = [
        {
            "name": task.name,
            "family": str(task.family),
            "columns": list(task.columns),
            "prompt_columns": list(task.prompt_columns),
            "plugin": _source(found.plugin_of(task.name)),
            "description": task.description,
        }
        for task in found.tasks.values()
    ]
    if as_json:
        print_json(rows)
    else:
        titles = ("name", "family", "columns", "plugin", "description")
        print_table(titles, [[_joined(row[title]) for title in titles] for row in rows])


@click.command(epilog="Example: lmkit show qa --tokenizer path/to/model")
@click.argument("task")
@click.option("--data", metavar="FILE", help="Show the first record of this data.")
@click.option(
    "--tokenizer",
    metavar="DIR",
    help="A model's folder or a tokenizer.json; without one, each character is a token.",
)
@json_option
def show(task: str, data: str | None, tokenizer: str | None, as_json: bool) -> None:
    """Show TASK as JSON, and one record at every stage: text, ids, labels, answer.

    TASK is a registered name, path/to/file.py:attribute, or a task.json.
    """
    from lmkit.errors import RecordError
    from lmkit.records import read
    from lmkit.registry import one_task
    from lmkit.saving.jsonform import to_json
    from lmkit.testing import sample_record, toy_tokenizer
    from lmkit.tokenizing import Tokenizer
    from lmkit.transforms import transformed

    found = one_task(task)
    record = sample_record(found)
    if data:
        record = dict(transformed(found.transforms, read(data), name=data)[0])
    tok = Tokenizer.load(tokenizer) if tokenizer else toy_tokenizer()
    try:
        stages = _stages(found, record, tok)
    except RecordError as error:
        raise (error if error.where else RecordError(data or "sample", error.problem)) from error
    if as_json:
        print_json({"task": to_json(_written(found)), **stages})
        return
    _print_stages(found, stages, tok)


def _stages(task: Task, record: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    from lmkit.answering.filling import with_mask
    from lmkit.encoding import IGNORE, encode, prompt_ids
    from lmkit.family import Family

    task = task.evolve(transforms=())  # the record is as they left it
    segments = task.formatter.segments(record, tokenizer.dialect)
    row = encode(task, [record], tokenizer)[0]
    masked = task.family is Family.MASKED
    asked = with_mask(task, record, tokenizer) if masked else record
    prompt = prompt_ids(task, asked, tokenizer)
    stages = {
        "record": record,
        "segments": [_segment(segment) for segment in segments if segment.text],
        "prompt": tokenizer.decode(prompt.tolist(), skip_control=False),
        "prompt_ids": prompt.tolist(),
        "input_ids": row.input_ids.tolist(),
        "labels": row.labels.tolist(),
        "tokens": [tokenizer.id_to_token(token) for token in row.input_ids.tolist()],
        "n_learned": int((row.labels != IGNORE).sum()),
    }
    if masked:
        drawn = task.collator.measured([row], tokenizer)[0]
        return stages | {"drawn_ids": drawn.input_ids.tolist(), "drawn": drawn.labels.tolist()}
    return stages | {"reference": task.reference(record, tokenizer.dialect)}


def _written(task: Task) -> Task:
    """Return the task as a run would write it down, transforms without a name among them."""
    from lmkit.transforms import recorded

    return task.evolve(transforms=recorded(task.transforms))


def _segment(segment: Segment) -> dict[str, Any]:
    return {"text": segment.text, "learn": segment.learn, "trusted": segment.trusted}


def _print_stages(task: Task, stages: dict[str, Any], tokenizer: Tokenizer) -> None:
    from rich.console import Console
    from rich.text import Text

    from lmkit.encoding import IGNORE
    from lmkit.family import Family
    from lmkit.saving.jsonform import dump, to_json

    console = Console(highlight=False, soft_wrap=True)
    console.print(dump(to_json(_written(task))).rstrip(), markup=False)
    console.print("\n[bold]record[/bold]")
    console.print(dump(stages["record"]).rstrip(), markup=False)
    console.print("\n[bold]text[/bold]  (learned text in «»; the rest is only read)")
    text = Text()
    for segment in stages["segments"]:
        if segment["learn"]:
            text.append(f"«{segment['text']}»", style="green")
        else:
            text.append(segment["text"], style="" if segment["trusted"] else "cyan")
    console.print(text)
    console.print("\n[bold]prompt[/bold]  (what the model is given at inference)")
    console.print(stages["prompt"], markup=False)
    cells = list(zip(stages["input_ids"], stages["labels"], strict=False))
    if task.family is Family.SEQ2SEQ:  # its labels are another text
        cells = [(token_id, IGNORE) for token_id in stages["input_ids"]]
        cells += [(label, label) for label in stages["labels"]]
    learned = "may be hidden" if "drawn" in stages else "learned"
    console.print(
        f"\n[bold]row[/bold]  {len(cells)} tokens, {stages['n_learned']} {learned}, "
        f"{len(stages['prompt_ids'])} in the prompt"
    )
    titles = ["at", "token", "id", "label"]
    rows = [
        [place, _quoted(token, tokenizer), token, learned if label != IGNORE else "read"]
        for place, (token, label) in enumerate(cells)
    ]
    if "drawn" in stages:
        titles.append("in one draw")
        for row, token, label in zip(rows, stages["drawn_ids"], stages["drawn"], strict=True):
            row.append(_quoted(token, tokenizer) if label != IGNORE else "")
    print_table(titles, rows)
    if "reference" in stages:
        console.print(Text.assemble("\n", ("answer", "bold"), f"  {stages['reference']!r}"))


def _quoted(token_id: int, tokenizer: Tokenizer) -> str:
    return repr(tokenizer.decode([token_id], skip_control=False))


PACKAGES = (
    "lmkit-tasks",
    "attrs",
    "cattrs",
    "click",
    "jinja2",
    "numpy",
    "onnxruntime",
    "pluggy",
    "rich",
    "tokenizers",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "onnx",
    "onnxscript",
    "onnxruntime-genai",
    "peft",
)
SWITCHES = (
    "LMKIT_PLUGINS",
    "LMKIT_DISABLE_PLUGINS",
    "LMKIT_PLUGIN_FILES",
    "LMKIT_STRICT_PLUGINS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "NO_COLOR",
)


@click.command(epilog="Example: lmkit env --json")
@json_option
def env(as_json: bool) -> None:
    """Print the versions and switches that matter in a bug report; nothing heavy is imported."""
    packages = {name: _version(name) for name in PACKAGES}
    switches = {name: os.environ[name] for name in SWITCHES if name in os.environ}
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "packages": packages,
        "switches": switches,
    }
    if as_json:
        print_json(facts)
        return
    rows = [(key, facts[key]) for key in ("python", "platform", "cores")]
    rows += [(name, version or "not installed") for name, version in packages.items()]
    rows += list(switches.items())
    print_table(("what", "is"), rows)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _joined(content: Any) -> str:
    if isinstance(content, list):
        return ", ".join(map(str, content))
    return "" if content is None else str(content)


def _source(plugin: Any) -> str | None:
    return None if plugin is None else str(plugin.source)
