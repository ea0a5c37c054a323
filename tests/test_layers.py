"""The house, floor by floor: a room imports what is below it, so a record's way through it is one way.

The floors follow the data: records, formatting, encoding, collating; a task, which says all of that;
what is written of it; what answers; then training, the runtime and export; the command line on top.
"""

import ast
import graphlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmkit

ROOT = Path(lmkit.__file__).parent

FLOORS = [
    ("errors", "family", "deprecating", "hooks", "verbs"),
    ("files", "records", "scratch", "tokenizing", "validators", "values"),
    ("adapters", "decoding", "formatting", "generation", "metrics"),
    ("chat", "transforms"),
    ("encoding", "plugins", "renaming", "sources"),
    ("collating", "losses", "scaffold"),
    ("task",),
    ("aligning", "mixing", "reading", "showing"),
    ("saving",),
    ("registry",),
    ("answering", "vocabulary"),
    ("evaluating", "previewing", "runtime"),
    ("batching", "benching", "comparing", "train"),
    ("chatting", "export", "serve"),
    ("cluster", "demo", "testing"),
    ("cli",),
]

# Imports that run inside a function and go up: what a name stands for is looked up when it is used.
UPWARDS = {
    ("answering", "runtime"): "a folder is opened by the side that it was written for",
    ("answering", "train"): "a folder is opened by the side that it was written for",
    ("encoding", "collating"): "a collator that reads everything as one text is asked for it",
    ("encoding", "registry"): "a task may be given by its name",
    ("mixing", "registry"): "a task may be given by its name",
    ("plugins", "task"): "what a plugin offers is checked to be tasks",
    ("previewing", "train"): "a model's folder is read as training would",
    ("transforms", "plugins"): "a plugin's function is found by its path",
}


def modules() -> dict[str, Path]:
    """Return every module below lmkit, by its dotted name without `lmkit.`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent != ROOT or not path.stem.startswith("__")
    }


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the modules of lmkit that one imports, each with whether that waits for a call."""

    def walk(node: ast.AST, waits: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("lmkit"):
                base = (child.module or "").removeprefix("lmkit").removeprefix(".")
                for name in child.names:
                    whole = f"{base}.{name.name}".removeprefix(".")
                    if found := whole if whole in MODULES else base:
                        yield found, waits
            yield from walk(child, waits or isinstance(child, (ast.FunctionDef, ast.Lambda)))

    return walk(ast.parse(path.read_text("utf-8")), False)


ARROWS = {(name, *arrow) for name, path in MODULES.items() for arrow in imports(path)}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room(module: str) -> str:
    return module.partition(".")[0]


def between_rooms(waits: bool) -> dict[tuple[str, str], str]:
    """Return the arrows from room to room, each with a module that it starts from."""
    return {
        (room(start), room(end)): start
        for start, end, late in sorted(ARROWS)
        if late == waits and room(start) != room(end)
    }


def test_every_room_has_its_floor():
    assert sorted(FLOOR) == sorted({room(name) for name in MODULES})


def test_what_is_imported_is_below():
    up = {
        (start, end): module
        for (start, end), module in between_rooms(waits=False).items()
        if FLOOR[start] <= FLOOR[end]
    }

    assert up == {}


def test_what_is_looked_up_when_called_is_below_or_is_in_the_list():
    up = {arrow for arrow in between_rooms(waits=True) if FLOOR[arrow[0]] <= FLOOR[arrow[1]]}

    assert up == set(UPWARDS)


def test_no_modules_import_each_other_in_a_circle():
    graph = defaultdict(set)
    for start, end, late in ARROWS:
        if not late and start != end:
            graph[start].add(end)

    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(("one", "other"), [("train", "runtime"), ("runtime", "train")])
def test_training_and_the_runtime_never_meet(one, other):
    """Not even inside a function: one is there without the other."""
    assert not [start for start, end, _ in ARROWS if (room(start), room(end)) == (one, other)]


def test_only_export_and_the_demo_are_made_of_both():
    used = defaultdict(set)
    for start, end, late in ARROWS:
        if not late:
            used[room(start)].add(room(end))

    both = {name for name, rooms in used.items() if {"train", "runtime"} <= rooms}
    assert both == {"demo", "export"}
