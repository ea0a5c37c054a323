"""Export: a run, or any model with a task, becomes a folder that answers without torch.

The folder is filled beside its place and renamed into it when everything in it has been checked
against torch, so what stands at the output is whole, or nothing is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import lmkit
from lmkit.choosing import check_labels
from lmkit.encoding import encode_rows, prompt_ids
from lmkit.errors import ExportError, MissingExtra, RecordError, UnknownName
from lmkit.evaluating import EVAL_BATCH, batches_by_length
from lmkit.export.card import write_card
from lmkit.export.genai import try_genai
from lmkit.export.parity import check_parity
from lmkit.export.probes import probe_records
from lmkit.export.source import Source
from lmkit.family import Family
from lmkit.files import check_free, new_folder, sha256_of
from lmkit.jsonform import plugin_types, to_json
from lmkit.loss import Loss
from lmkit.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    File,
    Manifest,
    Needed,
    Tokens,
    write_manifest,
)
from lmkit.plugins import distributions_of
from lmkit.records import Data, Row, read
from lmkit.registry import get_task
from lmkit.rendering import at_time, now
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.generator import Generator, open_generator
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

if TYPE_CHECKING:
    pass

GRAPH_FILE = "model.onnx"
PRECISIONS = ("fp32",)
SCORED_ROWS = 200  # rows of the data on which both sides' perplexity is measured


def export(
    run: Any,
    *,
    output: str | Path,
    task: Task | str | None = None,
    tokenizer: Any = None,
    precision: str = "fp32",
    data: Data | None = None,
    force: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> Bundle:
    """Write a bundle, checked against torch on real prompts.

    Args:
        run: a Run or its folder; with `task`, also a hub id, a model's folder, a `.gguf` file or a
            loaded transformers model.
        output: the folder to make.
        task: what the model does, where that is not in the run.
        tokenizer: a folder or a tokenizer; None for the model's own.
        precision: how weights are stored: `fp32`.
        data: records for the check and the golden prompts, and to measure perplexity on.
        force: whether an existing output may be replaced.
        on_stage: called with a few words as each stage begins.
    Returns:
        The bundle.
    Raises:
        OutputExists: something is at the output already.
        ExportError: the architecture cannot be exported; the text says why.
        ParityError: the bundle would answer differently; nothing was written.
    """
    say = on_stage or (lambda stage: None)
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    folder = Path(output)
    check_free(folder, force=force, marker=MANIFEST_FILE)
    rows = read(data) if data is not None else []
    task = _task_of(run, task)
    say("loading the model")
    source = _prepared(run, task, tokenizer, rows)
    with new_folder(folder, force=force, marker=MANIFEST_FILE) as part:
        say("tracing the graph")
        manifest = _write_model(part, source)
        say("comparing with torch")
        generator = open_generator(Bundle(part, manifest))
        with at_time(manifest.created):
            parity, golden = check_parity(source.model, generator, source.records)
        figures: dict[str, Any] = {"parity": parity, "size_bytes": _graph_size(part)}
        if rows:
            say("measuring perplexity")
            figures["perplexity"] = _perplexity(source.model, generator, rows)
        manifest = attrs.evolve(
            manifest,
            golden=golden,
            precisions={precision: figures},
            genai=_genai(part, task.family),
        )
        write_card(part, manifest)
        manifest = attrs.evolve(manifest, files=_files(part))
        write_manifest(manifest, part)
        say("putting the bundle in place")
    return Bundle(folder, manifest)


def _prepared(run: Any, task: Task, tokenizer: Any, rows: Sequence[Row]) -> Source:
    """Load the model and refuse what cannot work before minutes are spent on the graph."""
    family, models = _heavy(task.family)
    loaded = models.load_model(_source(run), family=task.family, tokenizer=tokenizer)
    family.check(loaded.model)
    task = models.fitted(task, loaded.model)
    # Read before `align` replaces them; in another tokenizer they mean nothing.
    own_stops = models.stop_ids(loaded.model) if tokenizer is None else []
    ready, stops = models.align(loaded.model, loaded.tokenizer, task.formatter)
    if not stops:
        raise ExportError("the tokenizer has no EOS token, so no answer would ever end")
    records = probe_records(task, rows)
    _check_prompts(task, records, ready)
    return Source(
        task=task,
        model=loaded.model,
        name=loaded.name,
        tokenizer=ready,
        stops=tuple(dict.fromkeys([*stops, *own_stops])),
        records=records,
    )


def _write_model(part: Path, source: Source) -> Manifest:
    """Write the graph and the tokenizer, and return the manifest so far."""
    family, _ = _heavy(source.task.family)
    graph = family.write(part, source)
    source.tokenizer.save(part)
    pad_id = source.tokenizer.pad_id
    assert pad_id is not None  # load_model saw to it
    return Manifest(
        schema=SCHEMA,
        lmkit=lmkit.__version__,
        created=now(),
        families=(str(source.task.family),),
        task=source.task,
        model=_about(source),
        graph=graph,
        tokens=Tokens(
            eos=source.stops[0], stop=source.stops, pad=pad_id, bos=source.tokenizer.bos_id
        ),
        plugins=_needed(source.task),
    )


def _task_of(run: Any, task: Task | str | None) -> Task:
    if task is not None:
        found = get_task(task)
    else:
        try:
            name, has_task = str(run), (Path(run) / "task.json").is_file()
        except TypeError:
            name, has_task = type(run).__name__, False
        if not has_task:
            raise ExportError(
                f"'{name}' has no task.json, so it is not known what it does; name a task with "
                "task= (--task), such as chat"
            )
        found = get_task(Path(run) / "task.json")
    to_json(found)  # what cannot become JSON is told before any work
    return found


def _heavy(family: Family) -> tuple[Any, Any]:
    """Import the family's module, which has `check` and `write`, and the models; they need an extra."""
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it

        module = importlib.import_module(f"lmkit.export.{family}")
    except ModuleNotFoundError as error:
        raise MissingExtra("export", "export", error.name) from error
    from lmkit.train import models

    return module, models


def _source(run: Any) -> Any:
    path = getattr(run, "path", None)
    return str(path) if path is not None else run


def _check_prompts(task: Task, records: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> None:
    for record in records:
        prompt_ids(task, record, tokenizer)
        check_labels(task, record, tokenizer)


def _about(source: Source) -> dict[str, Any]:
    model = source.model
    return {
        "name": Path(source.name).name,
        "architecture": type(model).__name__,
        "model_type": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _needed(task: Task) -> tuple[Needed, ...]:
    names = [name.partition(":")[0] for name in plugin_types(to_json(task))]
    return tuple(
        Needed(plugin=str(p["plugin"]), distribution=p["distribution"], version=p["version"])
        for p in distributions_of(names)
    )


def _genai(part: Path, family: Family) -> dict[str, Any]:
    """Return how onnxruntime-genai fares with the bundle."""
    if family is not Family.CAUSAL:
        return {"loads": False, "reason": f"it runs causal models, and this one is {family}"}
    return try_genai(part)


def _graph_size(part: Path) -> int:
    return sum(file.stat().st_size for file in part.glob("*.onnx*"))


def _perplexity(model: Any, generator: Generator, rows: Sequence[Row]) -> dict[str, Any]:
    """Return both sides' perplexity on the first rows of the data."""
    from lmkit.train.answering import TorchAnswerer

    task, tokenizer = generator.task, generator.tokenizer
    torch_side = TorchAnswerer(task=task, model=model, tokenizer=tokenizer)
    some = rows[:SCORED_ROWS]
    try:
        encoded = list(encode_rows(task, some, tokenizer))
        encoded = task.collator.measured(encoded, tokenizer)
    except RecordError as error:
        return {"not_measured": f"the data has no answers to score: {error}"}
    ours, torchs = Loss(), Loss()
    for part in batches_by_length(encoded, EVAL_BATCH):
        ours += generator.score(part)
        torchs += torch_side.score(part)
    return {
        "bundle": ours.figures()["perplexity"],
        "torch": torchs.figures()["perplexity"],
        "tokens": ours.count,
        "records": len(some),
    }


def _files(part: Path) -> dict[str, File]:
    return {
        path.relative_to(part).as_posix(): File(
            sha256=sha256_of(path), size_bytes=path.stat().st_size
        )
        for path in sorted(part.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
