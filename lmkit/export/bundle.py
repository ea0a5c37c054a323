"""Export: a run, or any model with a task, becomes a folder that answers without torch.

The folder is filled beside its place and renamed into it when everything in it has been checked
against torch, so what stands at the output is whole, or nothing is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

import lmkit
from lmkit.benching.sides import SideFailed
from lmkit.chat.rendering import at_time, now
from lmkit.encoding import Ids
from lmkit.errors import ExportError, TaskError
from lmkit.export.calibration import calibration_texts
from lmkit.export.card import write_card
from lmkit.export.gate import check, passes, share, with_tried
from lmkit.export.genai import try_genai
from lmkit.export.measuring import (
    MEASURED_TOKENS,
    Progress,
    Sample,
    metrics_of,
    sample_of,
    scored,
    speeds,
)
from lmkit.export.memory import give_back
from lmkit.export.preparing import heavy, prepared, task_of
from lmkit.export.source import Source
from lmkit.family import Family
from lmkit.files import check_free, new_folder, sha256_of
from lmkit.reading import read_for
from lmkit.records import Data
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.opening import open_generator
from lmkit.saving.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    File,
    Golden,
    Manifest,
    Tokens,
    write_manifest,
)
from lmkit.saving.needs import needed_by
from lmkit.saving.precisions import FP32, INT4, Precision, named
from lmkit.task import Task

KEPT_BYTES = 1 << 24  # of the beginnings of prompts, while precisions are compared


def export(
    run: Any,
    *,
    output: str | Path,
    task: Task | str | None = None,
    tokenizer: Any = None,
    precision: str | Sequence[str] = FP32,
    data: Data | None = None,
    max_perplexity_increase: str | float | None = None,
    measured_tokens: int = MEASURED_TOKENS,
    timed: bool = True,
    force: bool = False,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
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
        data: records for the check and the golden prompts, and to measure perplexity and the task's
            metrics on, through the finished bundle. A quarter of them, if that many are needed, is not
            scored: 4-bit weights are rounded by what they multiply there. Without data a causal model
            draws texts itself for that.
        max_perplexity_increase: by how much a precision's perplexity may be above float32's, as `2%`
            or 0.02; where that is not asked for it is measured all the same. A precision that would
            lose more keeps its sensitive weights higher first, and is refused if that does not help.
        measured_tokens: learned tokens, from all over the data, on which perplexity is measured.
        timed: whether to measure each precision's speed and memory, which takes seconds.
        force: whether an existing output may be replaced.
        on_stage: called with a few words as each stage begins.
        on_progress: called with (done, in all) during the stages that measure.
    Returns:
        The bundle.
    Raises:
        OutputExists: something is at the output already.
        ExportError: the architecture cannot be exported; the text says why.
        ParityError: the bundle would answer differently; nothing was written.
        QualityError: a precision loses more than was allowed; nothing was written.
        UnknownName: there is no such precision.
    """
    tell = _Telling(on_stage or (lambda stage: None), on_progress or (lambda done, total: None))
    say = tell.stage
    names = named(precision)
    most = None if max_perplexity_increase is None else share(max_perplexity_increase)
    if most is not None and data is None:
        raise ExportError("max_perplexity_increase needs data (--data) to measure perplexity on")
    if measured_tokens < 1:
        raise TaskError(f"measured_tokens is {measured_tokens}; expected 1 or more")
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
        give_back()
        calibrated = INT4 in names and writer.has_large
        sample = None
        if data is not None:
            sample = sample_of(
                source.task, rows, source.tokenizer, measured_tokens, held_out=calibrated
            )
        texts = None
        if calibrated:
            texts = functools.partial(
                calibration_texts,
                part,
                manifest,
                reference.prompts,
                writer,
                source,
                rows,
                tell.progress,
            )
        manifest = _in_each(part, manifest, reference, writer, names, sample, most, tell, texts)
        manifest = attrs.evolve(manifest, genai=_genai(part, manifest))
        if timed:
            manifest = _timed(part, manifest, tell)
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
        plugins=needed_by(source.task),
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
    sample: Sample | None,
    most: float | None,
    tell: _Telling,
    texts: Callable[..., tuple[list[Ids], str]] | None,
) -> Manifest:
    """Write the precisions one after another, measure each, and return the manifest with them.

    `texts` gives what 4-bit weights are rounded by, and whose it is; it is called while float32 is open.

    Raises:
        ParityError: float32 does not write what torch writes.
        QualityError: one loses more than was allowed.
    """
    prompts = [(record, reference.prompts[place]) for place, record in reference.golden.items()]
    found: dict[str, Precision] = {}
    for name in (FP32, *(name for name in names if name != FP32)):
        tried: list[Precision] = []
        for rung in writer.rungs(name):
            if name != FP32:
                plan = str(rung)
                tell.stage(f"storing the weights as {name}{plan and ', where '}{plan}")
            written = writer.save(name, rung)
            base = found.get(FP32)
            give_back()
            generator = _opened(part, manifest, name, written)
            one = _measured(generator, name, written, reference, sample, base, most, tell)
            given = None
            if name == FP32 and texts is not None:
                tell.stage("measuring what the weights multiply")
                give_back()
                given = texts(generator=generator)
            found[name] = with_tried(one, tried)
            del generator
            give_back()
            if given is not None:
                writer.measure(*given)
                give_back()
            if passes(one, most):
                break
            tried.append(one)
    writer.tidy()
    check(found, most)
    graph: Any = manifest.graph
    return attrs.evolve(
        manifest,
        graph=graph.with_files(found[names[0]].files),
        golden=tuple(
            Golden(record=dict(record), prompt_ids=tuple(prompt.tolist()), token_ids=token_ids)
            for (record, prompt), token_ids in zip(prompts, found[names[0]].golden, strict=True)
        ),
        precisions={name: found[name] for name in names},
    )


def _opened(part: Path, manifest: Manifest, name: str, written: Precision) -> Any:
    graph: Any = manifest.graph
    own = attrs.evolve(manifest, precision=name, graph=graph.with_files(written.files))
    return open_generator(Bundle(part, own), prefix_cache_bytes=KEPT_BYTES)


def _measured(
    generator: Any,
    name: str,
    written: Precision,
    reference: Any,
    sample: Sample | None,
    base: Precision | None,
    most: float | None,
    tell: _Telling,
) -> Precision:
    """Return a precision with its figures.

    One that is rounded is scored first: what does not pass needs no other figures.
    """
    family = heavy(generator.task.family)

    def beside_torch(found: Precision, compare: Any) -> Precision:
        tell.stage(f"comparing {name} with torch")
        parity, golden = compare(reference, generator)
        agreement = parity.pop("greedy_agreement", 1.0)
        return attrs.evolve(found, parity=parity, golden=golden, greedy_agreement=agreement)

    found = written
    if base is None:
        found = beside_torch(found, family.compare)
    if sample is not None:
        tell.stage(f"measuring the perplexity of {name}")
        give_back()
        perplexity = scored(generator, sample, tell.progress)
        if "bundle" in perplexity:
            than = perplexity if base is None else base.perplexity
            perplexity["increase"] = perplexity["bundle"] / than["bundle"] - 1
        found = attrs.evolve(found, perplexity=perplexity)
        if not passes(found, most):
            return found
    if base is not None:
        found = beside_torch(found, family.agree)
    if sample is not None and sample.answered:
        tell.stage(f"measuring the metrics of {name}")
        found = attrs.evolve(found, metrics=metrics_of(generator, sample, tell.progress))
    return found


def _timed(part: Path, manifest: Manifest, tell: _Telling) -> Manifest:
    """Return the manifest with each precision's speed, measured on the bundle as it is so far."""
    tell.stage("measuring speed and memory")
    write_manifest(attrs.evolve(manifest, files=_files(part, checksums=False)), part)
    try:
        found = speeds(Bundle(part, manifest), tell.progress)
    except SideFailed as error:
        tell.stage(f"speed is not known: {error}")
        return manifest
    precisions = {
        name: attrs.evolve(one, **attrs.asdict(found[name])) if name in found else one
        for name, one in manifest.precisions.items()
    }
    return attrs.evolve(manifest, precisions=precisions)


@attrs.frozen
class _Telling:
    """Says how far an export is."""

    stage: Callable[[str], None]
    progress: Progress


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


def _files(part: Path, *, checksums: bool = True) -> dict[str, File]:
    return {
        path.relative_to(part).as_posix(): File(
            sha256=sha256_of(path) if checksums else "", size_bytes=path.stat().st_size
        )
        for path in sorted(part.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
