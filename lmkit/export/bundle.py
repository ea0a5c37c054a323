"""Export: a run, or any model with a task, becomes a folder that answers without torch.

The folder is filled beside its place and renamed into it when everything in it has been checked
against torch, so what stands at the output is whole, or nothing is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

import lmkit
from lmkit.chat.rendering import at_time, now
from lmkit.encoding import encode_rows
from lmkit.errors import RecordError
from lmkit.evaluating import EVAL_BATCH, batches_by_length
from lmkit.export.card import write_card
from lmkit.export.genai import try_genai
from lmkit.export.preparing import heavy, prepared, task_of
from lmkit.export.source import Source
from lmkit.family import Family
from lmkit.files import check_free, new_folder, sha256_of
from lmkit.jsonform import plugin_types, to_json
from lmkit.loss import Loss
from lmkit.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    File,
    Golden,
    Manifest,
    Needed,
    Tokens,
    write_manifest,
)
from lmkit.plugins import distributions_of
from lmkit.precisions import FP32, named
from lmkit.reading import read_for
from lmkit.records import Data, Row
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.generator import Generator, open_generator
from lmkit.runtime.masked import MaskFiller
from lmkit.task import Task
from lmkit.transforms import plugins_of

SCORED_ROWS = 200  # rows of the data on which perplexity is measured


def export(
    run: Any,
    *,
    output: str | Path,
    task: Task | str | None = None,
    tokenizer: Any = None,
    precision: str | Sequence[str] = FP32,
    data: Data | None = None,
    force: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> Bundle:
    """Write a bundle, checked against torch on real prompts.

    The float32 graph must write torch's own tokens, whichever precision is asked for; the others are
    made from it.

    Args:
        run: a Run or its folder; with `task`, also a hub id, a model's folder, a `.gguf` file or a
            loaded transformers model.
        output: the folder to make.
        task: what the model does, where that is not in the run; of a mixture, one of its tasks.
        tokenizer: a folder or a tokenizer; None for the model's own.
        precision: how weights are stored, `fp32`, `int8` or `int4`; several, as names or as one text
            with commas, lie in one bundle, and the first is what it is opened at.
        data: records for the check and the golden prompts, and to measure perplexity on.
        force: whether an existing output may be replaced.
        on_stage: called with a few words as each stage begins.
    Returns:
        The bundle.
    Raises:
        OutputExists: something is at the output already.
        ExportError: the architecture cannot be exported; the text says why.
        ParityError: the bundle would answer differently; nothing was written.
        UnknownName: there is no such precision.
    """
    say = on_stage or (lambda stage: None)
    names = named(precision)
    folder = Path(output)
    check_free(folder, force=force, marker=MANIFEST_FILE)
    task = task_of(run, task)
    rows = read_for(task, data) if data is not None else []
    say("loading the model")
    source = prepared(run, task, tokenizer, rows)
    with new_folder(folder, force=force, marker=MANIFEST_FILE) as part:
        say("tracing the graph")
        manifest, reference, writer = _traced(part, source, names, say)
        source = attrs.evolve(source, model=None)  # large; nothing asks it any more
        manifest = _in_each(part, manifest, reference, writer, names, rows, say)
        manifest = attrs.evolve(manifest, genai=_genai(part, manifest))
        write_card(part, manifest, source.tokenizer)
        manifest = attrs.evolve(manifest, files=_files(part))
        write_manifest(manifest, part)
        say("putting the bundle in place")
    return Bundle(folder, manifest)


def _traced(
    part: Path, source: Source, names: Sequence[str], say: Callable[[str], None]
) -> tuple[Manifest, Any, Any]:
    """Write the float32 graph and the tokenizer, and ask torch what must come out of them.

    Returns:
        The manifest so far, at the default precision; torch's side; and what writes more precisions.
    """
    family = heavy(source.task.family)
    from lmkit.export.writing import Writer

    writer = Writer(part, names)
    graph = family.write(part, source, writer.save_float32)
    source.tokenizer.save(part)
    pad_id = source.tokenizer.pad_id
    assert pad_id is not None  # load_model saw to it
    manifest = Manifest(
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
        precision=names[0],
    )
    say("asking torch")
    with at_time(manifest.created):
        reference = family.refer(source.model, manifest, source.tokenizer, source.records)
    return manifest, reference, writer


def _in_each(
    part: Path,
    manifest: Manifest,
    reference: Any,
    writer: Any,
    names: Sequence[str],
    rows: Sequence[Row],
    say: Callable[[str], None],
) -> Manifest:
    """Write the precisions one after another, compare each, and return the manifest with them."""
    family = heavy(manifest.task.family)
    prompts = [(record, reference.prompts[place]) for place, record in reference.golden.items()]
    found = {}
    for name in (FP32, *(name for name in names if name != FP32)):
        if name != FP32:
            say(f"storing the weights as {name}")
        written = writer.save(name)
        say(f"comparing {name} with torch")
        graph = manifest.graph.with_files(written.files)
        generator = open_generator(
            Bundle(part, attrs.evolve(manifest, precision=name, graph=graph))
        )
        compare = family.compare if name == FP32 else family.agree
        parity, golden = compare(reference, generator)
        perplexity = {}
        if rows:
            say(f"measuring the perplexity of {name}")
            perplexity = _perplexity(generator, rows)
        found[name] = attrs.evolve(written, parity=parity, golden=golden, perplexity=perplexity)
    writer.tidy()
    return attrs.evolve(
        manifest,
        golden=tuple(
            Golden(record=dict(record), prompt_ids=tuple(prompt.tolist()), token_ids=token_ids)
            for (record, prompt), token_ids in zip(prompts, found[names[0]].golden, strict=True)
        ),
        precisions={name: found[name] for name in names},
    )


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


def _perplexity(generator: Generator | MaskFiller, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the bundle's perplexity on the first rows of the data."""
    task, tokenizer = generator.task, generator.tokenizer
    some = rows[:SCORED_ROWS]
    try:
        own = list(encode_rows(task, some, tokenizer))
        encoded = task.collator.measured(own, tokenizer)[:SCORED_ROWS]
    except RecordError as error:
        return {"not_measured": f"the data has no answers to score: {error}"}
    ours = Loss()
    for part in batches_by_length(encoded, EVAL_BATCH):
        ours += generator.score(part)
    return {
        "bundle": ours.figures()["perplexity"],
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
