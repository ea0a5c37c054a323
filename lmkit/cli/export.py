"""Verbs about bundles: export, verify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click

from lmkit.cli.options import rename_option, renamed_task
from lmkit.cli.printing import json_option, print_json, print_table


@click.command(epilog="Example: lmkit export runs/qa --output bundles/qa --data test.jsonl")
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
@click.option("--data", help="Records for the parity check and the golden prompts, and to measure.")
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
    force: bool,
    as_json: bool,
) -> None:
    """Write RUN as a bundle that answers without torch.

    RUN is a run's folder; or, with --task, a hub id, a model's folder or a .gguf file. The bundle
    is checked against torch on real prompts before it is put in place, and refused, with the
    figures, if it would answer differently.
    """
    from lmkit.export.bundle import export as export_bundle
    from lmkit.registry import task_in

    if renames and task is None:
        raise click.UsageError("--rename goes with --task; a run's task reads its columns already")
    wanted: Any = renamed_task(task_in(run, task), renames) if task and renames else task
    bundle = export_bundle(
        run,
        output=output,
        task=wanted,
        tokenizer=tokenizer,
        precision=precision,
        data=data,
        force=force,
        on_stage=lambda stage: click.echo(f"{stage} ...", err=True),
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
                "size_bytes": sum(file.size_bytes for file in manifest.files.values()),
            }
        )
        return
    click.echo(f"wrote {path}: '{manifest.task.name}' on {manifest.model['architecture']}")
    for name, found in manifest.precisions.items():
        figures = {
            "size_bytes": found.size_bytes,
            "parity": found.parity,
            "perplexity": found.perplexity,
        }
        print_table(
            ("checked", "result"), [(k.replace("_", " "), v) for k, v in _flat(figures, name)]
        )
    click.echo(f"next: lmkit generate {path} --help")


@click.command(epilog="Example: lmkit verify bundles/qa")
@click.argument("bundle")
@json_option
def verify(bundle: str, as_json: bool) -> None:
    """Check BUNDLE: every file's checksum, the graph's contract, the golden prompts' answers."""
    from lmkit.runtime.generator import verify as verify_bundle

    checks = verify_bundle(bundle)
    if as_json:
        print_json({"bundle": bundle, "ok": True, "checks": checks})
        return
    print_table(("check", "result"), [(name, text) for name, text in checks.items()])
    click.echo(f"{bundle} is whole and answers as it did at export")


def _flat(figures: object, prefix: str = "") -> list[tuple[str, object]]:
    """Return nested figures as rows."""
    if not isinstance(figures, dict):
        shown = f"{figures:.3g}" if isinstance(figures, float) else figures
        return [(prefix, shown)]
    rows = []
    for key, inner in figures.items():
        rows += _flat(inner, f"{prefix} {key}".strip())
    return rows
