"""The verb demo: the whole path, told as it happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from lmkit.cli.printing import json_option, print_json, print_table


@click.command(epilog="Example: lmkit demo --output lmkit-demo")
@click.option(
    "--output",
    default="lmkit-demo",
    show_default=True,
    type=click.Path(),
    help="Where the run and the bundle are left to play with.",
)
@click.option("--force", is_flag=True, help="Replace an earlier demo at the output.")
@json_option
def demo(output: str, force: bool, as_json: bool) -> None:
    """See the whole path, offline, in about two minutes on two cores.

    Trains a small model from random weights on packaged Korean questions and answers, exports it,
    checks it against torch, and lets a process without torch answer.
    """
    try:
        # The demo needs them all in the end, so a missing one is told at the start.
        import datasets  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401

        from lmkit.demo import path as steps
    except ModuleNotFoundError as error:
        from lmkit.errors import MissingExtra

        raise MissingExtra("the demo", "export", error.name) from error
    from lmkit.answering import open_answerer
    from lmkit.files import check_free

    folder = Path(output)
    run_folder, bundle_folder = folder / "run", folder / "bundle"
    check_free(run_folder, force=force, marker="run.json")
    check_free(bundle_folder, force=force, marker="lmkit.json")
    if force:
        _clear(run_folder)
    started = time.perf_counter()
    learn, held_out = steps.split()
    _say(f"1/5  {len(learn)} Korean questions and answers, {len(held_out)} held out")
    before = steps.untrained(learn)
    answers_before = steps.answers(before)
    perplexity_before = steps.perplexity(before, held_out)
    _say("2/5  training a small Llama from random weights, one character a token")
    run = steps.train_run(learn, run_folder, before.tokenizer)
    _say("3/5  exporting to ONNX, and comparing with torch")
    bundle = steps.export_run(run, held_out, bundle_folder)
    figures = bundle.manifest.precisions["fp32"]
    _say("4/5  asking a new process, in which torch is never imported")
    asked = steps.ask_without_torch(bundle.path)
    _say("5/5  timing torch's generate() and the bundle in turn")
    speeds = steps.speeds(run, bundle.path)
    facts: dict[str, Any] = {
        "questions": list(steps.ASKED),
        "learned": [question in {row["prompt"] for row in learn} for question in steps.ASKED],
        "answers_before": answers_before,
        "answers_after": asked["answers"],
        "heavy_packages_in_the_answering_process": asked["heavy"],
        "perplexity_before": perplexity_before,
        "perplexity_after": steps.perplexity(open_answerer(run.path), held_out),
        "perplexity_of_the_bundle": figures.perplexity["bundle"],
        "parity": figures.parity,
        "tokens_per_second": speeds,
        "seconds": time.perf_counter() - started,
        "run": str(run_folder),
        "bundle": str(bundle_folder),
    }
    if as_json:
        print_json(facts)
    else:
        _tell(facts)


def _tell(facts: dict[str, Any]) -> None:
    click.echo()
    columns = ("questions", "learned", "answers_before", "answers_after")
    rows = zip(*(facts[column] for column in columns), strict=True)
    print_table(
        ("question", "in the training data", "before training", "after, from the bundle"),
        [
            (asked, "yes" if known else "no", was[:24] or "(blank)", now)
            for asked, known, was, now in rows
        ],
    )
    parity, speeds = facts["parity"], facts["tokens_per_second"]
    heavy = ", ".join(facts["heavy_packages_in_the_answering_process"]) or "none"
    ratio = speeds["bundle"] / speeds["generate()"]
    click.echo()
    print_table(
        ("measured", "figure"),
        [
            (
                "perplexity on held-out answers",
                f"{facts['perplexity_before']:,.0f} before, {facts['perplexity_after']:,.1f} after, "
                f"{facts['perplexity_of_the_bundle']:,.1f} through the bundle",
            ),
            (
                "parity with torch",
                f"{parity['greedy_tokens_compared']} greedy tokens equal, largest logit difference "
                f"{parity['max_logit_difference']:.1e}",
            ),
            ("torch, transformers or datasets in the answering process", heavy),
            (
                "tokens per second",
                f"{speeds['generate()']:,.0f} generate(), {speeds['bundle']:,.0f} bundle "
                f"({ratio:.1f}x)",
            ),
            ("time", f"{facts['seconds']:.0f} s"),
        ],
    )
    click.echo(f"\nThe run is in {facts['run']}, the bundle in {facts['bundle']}. Try:")
    click.echo(f"  lmkit generate {facts['bundle']} --set prompt='너무 졸려' --stream")
    click.echo(f"  lmkit show qa --tokenizer {facts['bundle']}")


def _clear(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def _say(text: str) -> None:
    click.echo(text, err=True)
