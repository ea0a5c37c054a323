"""Export: a run, or any model with a task, becomes a folder that answers without torch.

The folder is filled beside its place and renamed into it when everything in it has been checked
against torch, so what stands at the output is whole, or nothing is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

import lmkit
from lmkit.chat.rendering import at_time, now
from lmkit.choosing import check_labels
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import encode_rows, prompt_ids
from lmkit.errors import ExportError, MissingExtra, RecordError, UnknownName
from lmkit.evaluating import EVAL_BATCH, batches_by_length
from lmkit.export.card import write_card
from lmkit.export.genai import try_genai
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
from lmkit.reading import read_for
from lmkit.records import Data, Row
from lmkit.registry import one_task, task_in
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.generator import Generator, open_generator
from lmkit.runtime.masked import MaskFiller
from lmkit.task import Task
from lmkit.transforms import check_named, plugins_of

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
        task: what the model does, where that is not in the run; of a mixture, one of its tasks.
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
    task = _task_of(run, task)
    rows = read_for(task, data) if data is not None else []
    say("loading the model")
    source = _prepared(run, task, tokenizer, rows)
    with new_folder(folder, force=force, marker=MANIFEST_FILE) as part:
        say("tracing the graph")
        manifest = _write_model(part, source)
        say("comparing with torch")
        generator = open_generator(Bundle(part, manifest))
        with at_time(manifest.created):
            parity, golden = _heavy(task.family).compare(source.model, generator, source.records)
        figures: dict[str, Any] = {"parity": parity, "size_bytes": _graph_size(part)}
        if rows:
            say("measuring perplexity")
            figures["perplexity"] = _perplexity(source.model, generator, rows)
        manifest = attrs.evolve(
            manifest,
            golden=golden,
            precisions={precision: figures},
            genai=_genai(part, manifest),
        )
        write_card(part, manifest, source.tokenizer)
        manifest = attrs.evolve(manifest, files=_files(part))
        write_manifest(manifest, part)
        say("putting the bundle in place")
    return Bundle(folder, manifest)


def _prepared(run: Any, task: Task, tokenizer: Any, rows: Sequence[Row]) -> Source:
    """Load the model and refuse what cannot work before minutes are spent on the graph."""
    family = _heavy(task.family)
    from lmkit.export.merging import settled
    from lmkit.train.lengths import fitted
    from lmkit.train.models import load_model
    from lmkit.train.special import align, stop_ids, with_own_ids
    from lmkit.train.wrapped import base_of

    loaded = load_model(_source(run), family=task.family, tokenizer=tokenizer)
    family.check(base_of(loaded.model))
    task = with_own_ids(fitted(task, loaded.model), loaded.model)
    # Read before `align` replaces them; in another tokenizer they mean nothing.
    own_stops = stop_ids(loaded.model) if tokenizer is None else []
    ready, stops = align(loaded.model, loaded.tokenizer, task.formatter)
    if not stops and task.family is not Family.MASKED:
        raise ExportError("the tokenizer has no EOS token, so no answer would ever end")
    records = probe_records(task, rows, ready)
    prompts = [prompt_ids(cutting(task), record, ready) for record in records]
    for record in records:
        check_labels(cutting(task), record, ready)
    model, adapter = settled(loaded.model, prompts, task.family)
    return Source(
        task=task,
        model=model,
        name=loaded.name,
        tokenizer=ready,
        stops=tuple(dict.fromkeys([*stops, *own_stops])),
        records=records,
        adapter=adapter,
    )


def _write_model(part: Path, source: Source) -> Manifest:
    """Write the graph and the tokenizer, and return the manifest so far."""
    family = _heavy(source.task.family)
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
            eos=source.stops[0] if source.stops else None,
            stop=source.stops,
            pad=pad_id,
            bos=source.tokenizer.bos_id,
        ),
        plugins=_needed(source.task),
    )


def _task_of(run: Any, task: Task | str | None) -> Task:
    try:
        name, has_task = str(run), (Path(run) / "task.json").is_file()
    except TypeError:
        name, has_task = type(run).__name__, False
    if has_task:
        found = task_in(run, task)
    elif task is not None:
        found = one_task(task)
    else:
        raise ExportError(
            f"'{name}' has no task.json, so it is not known what it does; name a task with "
            "task= (--task), such as chat"
        )
    check_named(found.name, found.transforms)
    to_json(found)  # what cannot become JSON is told before any work
    return found


def _heavy(family: Family) -> Any:
    """Import the family's module, which has `check`, `write` and `compare` and needs an extra."""
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it

        return importlib.import_module(f"lmkit.export.{family}")
    except ModuleNotFoundError as error:
        raise MissingExtra("export", "export", error.name) from error


def _source(run: Any) -> Any:
    path = getattr(run, "path", None)
    return str(path) if path is not None else run


def _about(source: Source) -> dict[str, Any]:
    from lmkit.train.wrapped import base_of

    model = source.model
    return {
        "name": Path(source.name).name,
        "architecture": type(base_of(model)).__name__,
        "model_type": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({"adapter": source.adapter} if source.adapter else {}),
    }


def _needed(task: Task) -> tuple[Needed, ...]:
    names = [name.partition(":")[0] for name in plugin_types(to_json(task))]
    names += plugins_of(task.transforms)
    return tuple(
        Needed(plugin=str(p["plugin"]), distribution=p["distribution"], version=p["version"])
        for p in distributions_of(names)
    )


def _genai(part: Path, manifest: Manifest) -> dict[str, Any]:
    """Return how onnxruntime-genai fares with the bundle."""
    family = manifest.task.family
    if family is not Family.CAUSAL:
        return {"loads": False, "reason": f"it runs causal models, and this one is {family}"}
    if getattr(manifest.graph, "prefix", None) is not None:
        reason = (
            "it cannot be given the keys and values that a soft prompt puts before every prompt"
        )
        return {"loads": False, "reason": reason}
    return try_genai(part)


def _graph_size(part: Path) -> int:
    return sum(file.stat().st_size for file in part.glob("*.onnx*"))


def _perplexity(
    model: Any, generator: Generator | MaskFiller, rows: Sequence[Row]
) -> dict[str, Any]:
    """Return both sides' perplexity on the first rows of the data."""
    from lmkit.train.answering import through_torch

    task, tokenizer = generator.task, generator.tokenizer
    torch_side = through_torch(task, model, tokenizer)
    some = rows[:SCORED_ROWS]
    try:
        own = list(encode_rows(task, some, tokenizer))
        encoded = task.collator.measured(own, tokenizer)[:SCORED_ROWS]
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
