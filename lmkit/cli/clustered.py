"""What the verbs do with `--engine ray`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmkit.cli.printing import print_json, progress_bar

if TYPE_CHECKING:
    from lmkit.batching import Limits
    from lmkit.serve.settings import Settings


def answer_on_cluster(
    input_: str,
    output: str | None,
    open_all: functools.partial[Any],
    options: Mapping[str, Any],
    *,
    batch_size: int,
    groups: tuple[int | None, int | None],
    address: str | None,
    as_json: bool,
) -> None:
    """Answer a file of records; see `lmkit.cluster.answering`.

    Args:
        input_: the records.
        output: where the answers go; standard output if None.
        open_all: opens what answers; its first argument is the sources' names, and it takes
            `threads`.
        options: fields of `Generation`.
        batch_size: how many records are answered at once.
        groups: workers and threads, each None if not said.
        address: a cluster's, if said.
        as_json: whether one JSON document is printed.
    """
    from lmkit.cli.generate import print_lines, print_written
    from lmkit.cluster.answering import Job, answer_file

    lines: list[str] = []
    sources, *others = open_all.args
    there = tuple(os.path.abspath(name) if os.path.exists(name) else name for name in sources)
    workers, threads = groups
    job = Job(
        source=input_,
        output=Path(output) if output else None,
        open_model=functools.partial(open_all.func, there, *others),
        check_model=functools.partial(open_all, threads=None, verify=False),
        options=options,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        address=address,
    )
    out = sys.stdout
    # What ray has to say of its workers it prints, and standard output is for answers.
    with progress_bar() as progress, contextlib.redirect_stdout(sys.stderr):
        bar = progress.add_task("answering", total=None)
        done = answer_file(
            job,
            show=lines.extend if as_json else functools.partial(print_lines, file=out),
            progress=lambda answered, records: progress.update(
                bar, completed=answered, total=records
            ),
        )
    if as_json and not output:
        print_json([json.loads(line) for line in lines])
    elif output:
        print_written(output, done.records, done.already_there, as_json=as_json)


def serve_on_cluster(
    bundles: Sequence[tuple[str | None, str]],
    settings: Settings,
    limits: Limits,
    show: Callable[[str, Sequence[tuple[str, str]], Settings], object],
    *,
    where: tuple[str, int, str | None],
    replicas: tuple[int | None, int | None, int | None],
    precision: str | None,
    verify: bool,
    drain: float,
    log_format: Literal["text", "json"],
) -> None:
    """Serve until a signal; see `lmkit.cluster.serving`.

    Args:
        bundles: names, where typed, and folders.
        settings: who may ask, and how much.
        limits: what each bundle's engine may hold in each replica.
        show: says where the server is, when it is.
        where: host, port, and a cluster's address if said.
        replicas: how many, up to how many, and how many cores each has, where said.
        precision: which of the bundles' precisions.
        verify: whether checksums and golden answers are checked first.
        drain: seconds that running answers have at the end.
        log_format: how the replicas' logs are written.
    """
    from lmkit.cluster.starting import imported_ray

    imported_ray()  # so that what is missing is told by the extra's name
    from lmkit.cluster.replica import Plan
    from lmkit.cluster.serving import Fleet, serve_on_cluster

    host, port, address = where
    fewest, most, threads = replicas
    plan = Plan(
        bundles=[(name, os.path.abspath(path)) for name, path in bundles],
        settings=settings,
        limits=limits,
        precision=precision,
        threads=threads or 0,
        verify=verify,
        log_format=log_format,
    )
    fleet = Fleet(
        plan=plan,
        host=host,
        port=port,
        replicas=fewest,
        most_replicas=most,
        address=address,
        drain=drain,
    )
    out = sys.stdout

    def ready(url: str, names: Sequence[tuple[str, str]]) -> None:
        with contextlib.redirect_stdout(out):
            show(url, names, settings)
            out.flush()

    with contextlib.redirect_stdout(sys.stderr):
        serve_on_cluster(fleet, on_ready=ready)
