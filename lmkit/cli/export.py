"""Verbs about bundles: export, verify."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import click

from lmkit.cli.options import rename_option, renamed_task
from lmkit.cli.printing import json_option, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from lmkit.saving.manifest import Manifest


@click.command(
    epilog="Example: lmkit export runs/qa --output bundles/qa --precision int4,fp32 --data test.jsonl "
    "--max-perplexity-increase 2%. It writes a bundle that opens at int4, or refuses it with the figures "
    "if int4 answers more than 2% worse; 'lmkit generate bundles/qa --precision fp32 --set ...' then "
    "asks the other one. Without --precision it is float32 alone."
)
@click.argument("run")
@click.option("--output", required=True, type=click.Path(), help="The bundle's folder, to be made.")
@click.option(
    "--task",
    help="The task, for a model that was not trained here, or one of a mixture's tasks.",
)
@rename_option
@click.option("--tokenizer", help="A folder or tokenizer.json; the model's own if not given.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="How weights are stored: fp32, int8, int4, or several with commas; the first is what the "
    "bundle is opened at.",
)
@click.option(
    "--data",
    help="Records with their answers: for the comparison with torch and the golden prompts, to measure "
    "every precision's perplexity and the task's metrics on, and to round int4 for.",
)
@click.option(
    "--max-perplexity-increase",
    metavar="SHARE",
    help="Refuse the export, with the figures, if a precision's perplexity on --data is above "
    "float32's by more, such as 2% or 0.02.",
)
@click.option(
    "--measured-tokens",
    type=click.IntRange(min=1),
    help="Learned tokens, from all over the data, on which perplexity is measured; 4096 if not given.",
)
@click.option("--no-timing", is_flag=True, help="Leave speed and memory unmeasured.")
@click.option("--force", is_flag=True, help="Replace what is at the output.")
@json_option
def export(
    run: str,
    output: str,
    task: str | None,
    renames: Sequence[str],
    tokenizer: str | None,
    precision: str,
    data: str | None,
    max_perplexity_increase: str | None,
    measured_tokens: int | None,
    no_timing: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write RUN as a bundle that answers without torch.

    RUN is a run's folder; or, with --task, a hub id, a model's folder or a .gguf file. The bundle
    is checked against torch on real prompts before it is put in place, and refused, with the
    figures, if it would answer differently.

    int8 and int4 are made from the float32 graph that was checked, and store a weight in 8 or 4 bits:
    smaller and faster, and a little different. The table says what each costs and gains.
    """
    from lmkit.export.bundle import export as export_bundle
    from lmkit.export.measuring import MEASURED_TOKENS
    from lmkit.export.table import precision_notes, precision_table
    from lmkit.registry import task_in

    if renames and task is None:
        raise click.UsageError("--rename goes with --task; a run's task reads its columns already")
    wanted: Any = renamed_task(task_in(run, task), renames) if task and renames else task
    with _telling() as (on_stage, on_progress):
        bundle = export_bundle(
            run,
            output=output,
            task=wanted,
            tokenizer=tokenizer,
            precision=precision,
            data=data,
            max_perplexity_increase=max_perplexity_increase,
            measured_tokens=measured_tokens or MEASURED_TOKENS,
            timed=not no_timing,
            force=force,
            on_stage=on_stage,
            on_progress=on_progress,
        )
    path, manifest = bundle.path, bundle.manifest
    if as_json:
        print_json(
            {
                "bundle": str(path),
                "task": manifest.task.name,
                "model": manifest.model,
                "precisions": {
                    name: attrs.asdict(found) for name, found in manifest.precisions.items()
                },
                "genai": manifest.genai,
                "plugins": [attrs.asdict(need) for need in manifest.plugins],
                "size_bytes": sum(file.size_bytes for file in manifest.files.values()),
            }
        )
        return
    click.echo(f"wrote {path}: '{manifest.task.name}' on {manifest.model['architecture']}")
    print_table(*precision_table(manifest))
    for note in precision_notes(manifest):
        click.echo(note)
    for name, found in manifest.precisions.items():
        rows = [(key.replace("_", " "), shown) for key, shown in _flat(found.parity)]
        print_table((f"{name} beside torch", "result"), rows)
    for note in _needs(manifest):
        click.echo(note)
    click.echo(f"next: lmkit generate {path} --help")


@click.command(epilog="Example: lmkit verify bundles/qa")
@click.argument("bundle")
@json_option
def verify(bundle: str, as_json: bool) -> None:
    """Check BUNDLE: every file's checksum, the graph's contract, the golden prompts' answers."""
    from lmkit.runtime.opening import verify as verify_bundle

    checks = verify_bundle(bundle)
    if as_json:
        print_json({"bundle": bundle, "ok": True, "checks": checks})
        return
    print_table(("check", "result"), [(name, text) for name, text in checks.items()])
    click.echo(f"{bundle} is whole and answers as it did at export")


@contextlib.contextmanager
def _telling() -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Give what prints the stages, and what shows how far the long ones are."""
    with progress_bar() as progress:
        job = progress.add_task("", total=None, visible=False)

        def stage(text: str) -> None:
            click.echo(f"{text} ...", err=True)
            progress.reset(job, total=None, description=text, visible=False)

        def done(count: int, total: int) -> None:
            progress.update(job, completed=count, total=total, visible=True)

        yield stage, done


def _needs(manifest: Manifest) -> Iterator[str]:
    """Yield what whoever opens the bundle has to have, besides lmkit."""
    from lmkit.saving.needs import needed_to_answer, requirements

    needs = needed_to_answer(manifest.task, manifest.plugins)
    if packages := requirements(needs):
        yield f"wherever it answers: pip install {' '.join(packages)}"
    for need in needs:
        if need.distribution is None:
            yield (
                f"wherever it answers: lmkit --plugin {need.plugin}.py, a file that is no part of the "
                "bundle; put it into a package, and pip brings it (lmkit new)"
            )


def _flat(figures: object, prefix: str = "") -> list[tuple[str, object]]:
    """Return nested figures as rows."""
    if not isinstance(figures, dict):
        shown = f"{figures:.3g}" if isinstance(figures, float) else figures
        return [(prefix, shown)]
    rows = []
    for key, inner in figures.items():
        rows += _flat(inner, f"{prefix} {key}".strip())
    return rows
