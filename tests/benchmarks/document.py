"""The results as a document: `benchmarks.md` and its pictures."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goals import GOALS, against_goal
from parts import PARTS, START, START_TITLE
from peers import MODELS, OURS

from lmkit.benching import plots
from lmkit.benching.report import Report, Spread
from lmkit.benching.sides import WORKERS
from lmkit.benching.tables import markdown, markdown_table, spread_text


def write(results: Path, docs: Path) -> None:
    """Put what was measured together, whichever parts there are."""
    names = [*PARTS, START]
    found = {
        name: json.loads((results / f"{name}.json").read_text("utf-8"))
        for name in names
        if (results / f"{name}.json").is_file()
    }
    docs.mkdir(exist_ok=True)
    parts = [HEAD, "\n".join(f"- {line}" for line in _when(found))]
    if absent := [name for name in names if name not in found]:
        parts.append(f"Not measured: {', '.join(absent)}.")
    rows = [row for goal in GOALS if (row := against_goal(goal, found))]
    parts += ["## The numbers to reach", REACHED, markdown_table(GOAL_TITLES, rows)]
    for name, data in found.items():
        if name == START:
            parts += [f"## {START_TITLE}", _started(data)]
            continue
        report = Report.of_document(data)
        plots.save_plot(report, docs / f"benchmarks-{name}.svg")
        title = PARTS[name].title
        parts += [f"## {title}", *([NOTES[name]] if name in NOTES else [])]
        parts += [f"![{title}](benchmarks-{name}.svg)", markdown(report).strip()]
    parts += ["## How each side was run", _settings()]
    parts += ["The models were made by:", f"```sh\n{_commands()}\n```"]
    (docs / "benchmarks.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _when(found: Mapping[str, Any]) -> list[str]:
    """Return the days, machines and versions of all parts, each once."""
    facts: dict[str, dict[str, None]] = {}
    for data in found.values():
        facts.setdefault("measured", {})[data["date"][:10]] = None
        machine = data["machine"]
        memory = f", {machine['memory_bytes'] / 1e9:.0f} GB" if machine["memory_bytes"] else ""
        where = f"{machine['processor']}, {machine['cores']} cores{memory}, {machine['system']}"
        facts.setdefault("on", {})[f"{where}, Python {machine['python']}"] = None
        facts.setdefault("threads of each side", {})[str(data["threads"])] = None
        facts.setdefault("rounds counted", {})[str(data["rounds"])] = None
        for result in data["results"]:
            if "library" in result:
                facts.setdefault("versions", {})[result["library"]] = None
    return [f"{name}: {'; '.join(each)}" for name, each in facts.items()]


def _started(data: Mapping[str, Any]) -> str:
    rows = [
        (side["title"], side["what"], spread_text(Spread(**side["start_s"])))
        for side in data["results"]
    ]
    table = markdown_table(("side", "what is started", "seconds"), rows)
    lines = [f"{data['rounds']} starts in turn, {data['date']}; medians, the least and the most"]
    lines += [f"{side['title']} skipped: {side['reason']}" for side in data["skipped"]]
    return "\n\n".join([STARTED, table, "\n".join(f"- {line}" for line in lines)])


def _settings() -> str:
    """Return what the workers' own files say about how each library is run."""
    lines = []
    for file in sorted(WORKERS.glob("with_*.py")):
        said = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        text = " ".join(re.sub(r"\s+", " ", said).split("\n"))
        lines.append(f"- {text}")
    return "\n".join(lines)


def _commands() -> str:
    """Return what made each model, as it would be typed."""
    lines = []
    for name, (source, task, precisions) in OURS.items():
        given = source.format(model="MODEL", models="models")
        lines.append(
            f"lmkit export {given} --task {task} --precision {precisions} --output models/{name}"
        )
    for name, command in MODELS.items():
        program, *words = command
        program = "python" if program == sys.executable else program.rpartition("/")[2]
        given = {"model": "MODEL", "older": "MODEL", "models": "models", "out": f"models/{name}"}
        lines.append(" ".join([program, *(word.format_map(given) for word in words)]))
    return "\n".join(lines)


GOAL_TITLES = ("what", "ours", "theirs", "ours over theirs", "to reach (beyond)", "reached")
GOAL_TITLES += ("perplexity",)
HEAD = """# Benchmarks

Written by `tests/benchmarks/compare.py`, beside whose README.md stands how to run it. Every side has a
process of its own and does the same work in turn (A B C A B C ...): the same ids to read, the same number
of tokens to write, greedily, the text's end not minded. Figures are medians, with the least and the most
of the rounds in brackets. Ratios hold between machines of a kind, the figures themselves do not.

The causal model is SmolLM2-135M-Instruct, made from a Q4_1 GGUF: its weights lie on a grid of 4 bits
already, so that int4 costs it less than a model trained in fp32, and llama.cpp runs them as they are.
Perplexity is that of the passage that prompts are cut from (seven paragraphs in English and two in Korean,
written for it), each paragraph for itself; it tells precisions of one model apart, no more.
Agreement in "same tokens" ends at the first token that differs: precisions round differently, and
OpenVINO computes in bf16 where the processor has it, so that two tokens that are nearly as likely change
places."""
REACHED = """Medians; a multiple of times is theirs over ours, so that more is always better. What stands in
brackets is hoped for beyond. The share of the read limit is bytes of weights read a second, over what the
machine read from memory between the rounds. Perplexity is ours and theirs, of the same text: a speed that
is paid with quality shows there. The other numbers of the design (export, install, encoding,
collation, packing) have programs of their own in `tests/benchmarks`, or stand in performance.md."""
STARTED = """Seconds from starting a process to the first piece of its answer's text, in a fresh process every
time; the files have been read before. Ours is the command, checks of the bundle included; a peer's is the
shortest script that loads the same model (`tests/benchmarks/starting.py`)."""
NOTES = {
    "repeats": "Here alone ours guesses tokens from what it has read, and checks them; in every other "
    "part each token costs a step, as it does the peers. transformers and llama.cpp can do the "
    "like and are not shown: the goal is a multiple of our own loop. What reads drafts of int8 and int4 "
    "is loaded where it pays, behind about three texts like these, so five rounds warm up; the text here "
    "is a whole copy, which favours drafts: edits and summaries gain less.",
    "seq2seq": "The weights are random, as are the texts then: speed is that of a trained model.",
    "beams": "The weights are random, as are the texts then: speed is that of a trained model.",
    "masked": "The weights are random: speed is that of a trained model.",
}
