"""Answer a file of records on a cluster: `lmkit generate --engine ray`."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.answering import Answerer
from lmkit.answering.lines import answers_in, appending, checked
from lmkit.cluster.joining import Joiner, Waiting
from lmkit.cluster.spans import Span, gaps
from lmkit.cluster.starting import Groups, Joined, joined
from lmkit.cluster.working import Work, Worker, attempts, first_of, read_parts
from lmkit.records import BadRows, Row, good_rows, iterate, nothing_in
from lmkit.runtime.cores import available_cores

# A part is what is done again when a worker is lost, and what ends last keeps the others waiting.
BATCHES_A_PART = 8
PARTS_A_WORKER = 4


@attrs.frozen(kw_only=True)
class Job:
    """A file of records that a cluster is to answer.

    Attributes:
        source: the records: a file that can be read more than once.
        output: where the answers go; None to hand them to `show` alone.
        open_model: opens the model in a worker, with so many `threads`; it is sent there, so it is a
            module's function, or a partial one. Paths in it are those of the workers' machines.
        check_model: opens it here, to check every record's prompt before the first is answered.
        options: fields of `Generation`.
        batch_size: how many records a worker answers at once.
        workers: how many there are; as many as there is room for if None.
        threads: how many cores each has; found if None.
        address: of a cluster; see `joined`.
    """

    source: str
    output: Path | None
    open_model: Callable[..., Answerer]
    check_model: Callable[[], Answerer]
    options: Mapping[str, Any]
    batch_size: int
    workers: int | None = None
    threads: int | None = None
    address: str | None = None


@attrs.frozen
class Done:
    """What a job came to.

    Attributes:
        records: how many there are.
        already_there: how many of them were answered before.
    """

    records: int
    already_there: int


def answer_file(
    job: Job,
    *,
    show: Callable[[Sequence[str]], object] = lambda lines: None,
    progress: Callable[[int, int], object] = lambda answered, records: None,
) -> Done:
    """Answer a file; every record's line is in the output once, in order, whatever workers do.

    Args:
        job: what to answer, and with what.
        show: is given the lines, in order, where there is no output.
        progress: is told how many records are answered, of how many.
    Raises:
        RecordError: a record cannot be answered, or the output is another input's.
        LmkitError: the model cannot be opened, or a worker fails.
    """
    count = _count(job)
    with contextlib.ExitStack() as stack:
        if job.output is None or _is_a_stream(job.output):
            waiting = Waiting(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "parts")
        else:
            waiting = Waiting.beside(job.output)
        if job.output is None:
            done, write = 0, show
        else:
            done = answers_in(job.output, _rows(job.source))
            waiting.check(_rows(job.source))
            waiting.remove_half_written()
            write = stack.enter_context(appending(job.output))
        joiner = Joiner(write, waiting, done=done)
        before = joiner.done + joiner.waiting
        progress(before, count)
        if todo := gaps(waiting.spans(), first=joiner.done, end=count):
            _check(job)
            for first, lines in _answered(job, todo):
                joiner.add(first, lines)
                progress(joiner.done + joiner.waiting, count)
    return Done(records=count, already_there=before)


def _is_a_stream(output: Path) -> bool:
    """Say whether an output is a pipe or a device, which no run goes on with, nor is a place for parts."""
    return output.exists() and not output.is_file()


def _count(job: Job) -> int:
    """Return how many records there are; those that cannot be read are told before all else."""
    bad = BadRows()
    count = sum(1 for _ in good_rows(iterate(job.source), bad))
    bad.end()
    if not count:
        raise nothing_in(job.source, None)
    return count


def _rows(source: str) -> Iterator[Row]:
    return good_rows(iterate(source), BadRows(most=1))


def _check(job: Job) -> None:
    """Check every record's prompt: a bad row late in the file costs nothing."""
    model, bad = job.check_model(), BadRows()
    for _ in good_rows((checked(model, row) for row in _rows(job.source)), bad):
        pass
    bad.end()


def _answered(job: Job, todo: Sequence[Span]) -> Iterator[tuple[int, list[str]]]:
    """Yield the parts that a cluster has answered, as they come."""
    # Ray Data makes its actors so that ray's core warns about each run of it, on standard error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = max(available_cores(), (job.workers or 1) * (job.threads or 1))
    with joined(job.address, cores=cores) as cluster:
        groups = Groups.of(cluster.cores, workers=job.workers, threads=job.threads)
        yield from first_of(_table(job, todo, groups, cluster))


def _table(job: Job, todo: Sequence[Span], groups: Groups, cluster: Joined) -> Any:
    """Return the rows of the data set that the workers make, which they make as these are read."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Each part goes on at once; else small ones would be gathered, and workers wait for them.
    context.target_max_block_size = 1
    source = os.path.abspath(job.source) if os.path.exists(job.source) else job.source
    rows = sum(span.count for span in todo)
    work = Work(
        open_model=functools.partial(job.open_model, threads=groups.threads),
        options=dict(job.options),
        batch_size=job.batch_size,
    )
    parts = ray.data.from_items([{"input": source}]).map_batches(
        read_parts,
        batch_size=1,
        fn_kwargs={
            "source": source,
            "spans": list(todo),
            "size": part_size(rows, groups.workers, job.batch_size),
        },
        num_cpus=0,
        resources={f"node:{cluster.here}": 0.001},  # only here is the input sure to be
    )
    answers = parts.map_batches(
        Worker,
        batch_size=1,
        fn_constructor_args=(work, attempts(cluster.ray)),
        compute=ray.data.ActorPoolStrategy(size=groups.workers),
        num_cpus=groups.threads,
    )
    return answers.iter_rows()


def part_size(rows: int, workers: int, batch_size: int) -> int:
    """Return how many rows a part has: whole batches, and several parts for each worker.

    >>> part_size(1_000_000, workers=4, batch_size=8)
    64
    >>> part_size(40, workers=2, batch_size=8)
    8
    """
    batches = -(-rows // (workers * PARTS_A_WORKER * batch_size))
    return batch_size * max(1, min(BATCHES_A_PART, batches))
