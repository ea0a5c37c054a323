"""Prepare: a source's rows are read, transformed and encoded, some at a time.

What is in memory goes into memory. Everything else goes into Arrow files, which `datasets` writes,
in one process or several: each takes a stretch of the rows, so that their order stays the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from lmkit.chat.rendering import at_time
from lmkit.encoding import Encoded, each_encoded
from lmkit.errors import LmkitError, RecordError
from lmkit.records import BadRows, Row, fingerprint, nothing_in
from lmkit.sources import Positions, Source
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import datasets
from lmkit.train.preparing.prepared import HeldRows, schema, table_of
from lmkit.transforms import transformed_row

if TYPE_CHECKING:
    import pyarrow

AT_ONCE = 1000  # rows of a source that are prepared together, and become one batch of an Arrow file
Tell = Callable[[int, int], None]
ROWS_FILE = "rows.arrow"


@attrs.frozen
class Bad:
    """A row that was left out.

    Attributes:
        position: its place among the source's rows.
        where: as of a `RecordError`.
        problem: likewise.
    """

    position: int
    where: str
    problem: str

    @property
    def error(self) -> RecordError:
        """The row's error."""
        return RecordError(self.where, self.problem)


@attrs.frozen(kw_only=True)
class Account:
    """What came of a source's rows, or of a stretch of them.

    Attributes:
        n_positions: how many rows there are, bad ones too.
        left: how many each of the task's transforms left over.
        bad: those that cannot be used, in order.
        sha256: of the content and order of those that can.
    """

    n_positions: int
    left: Sequence[int]
    bad: Sequence[Bad]
    sha256: str

    @property
    def good(self) -> Positions:
        """The positions of rows that are not bad, int64 [N]."""
        return np.delete(np.arange(self.n_positions), [bad.position for bad in self.bad])

    @classmethod
    def of_parts(cls, parts: Sequence[Account]) -> Account:
        """Return the account of all stretches together."""
        return cls(
            n_positions=sum(part.n_positions for part in parts),
            left=[sum(left) for left in zip(*(part.left for part in parts), strict=True)],
            bad=[bad for part in parts for bad in part.bad],
            sha256=hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest(),
        )


@attrs.define
class Preparer:
    """Prepares stretches of a source; each process has its own.

    Attributes:
        task: what the rows are for.
        source: where they are.
        tokenizer: the model's.
        policy: what bad rows do, `stop` or `skip`.
        moment: the date for templates that print one.
        folder: where accounts of stretches are written.
    """

    task: Task
    source: Source
    tokenizer: Tokenizer
    policy: str
    moment: str
    folder: Path | None = None
    _process: int = attrs.field(factory=os.getpid, init=False)
    _found: BadRows | None = attrs.field(default=None, init=False)
    _rows: Iterator[Row | RecordError] = attrs.field(factory=lambda: iter(()), init=False)
    _next: int = attrs.field(default=-1, init=False)

    def __call__(self, batch: Any) -> pyarrow.Table:
        """Return the rows of one stretch, for `datasets.map`, and leave its account in the folder."""
        if os.getpid() != self._process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this one ends it
        start = int(batch["start"][0])
        rows, positions, account = self.stretch(start)
        assert self.folder is not None
        part = self.folder / f"part-{start // AT_ONCE:09}.json"
        part.write_text(json.dumps(attrs.asdict(account)), "utf-8")
        return table_of(rows, positions)

    def stretch(self, start: int) -> tuple[list[Encoded], list[int], Account]:
        """Return the rows from a position on, the positions of their records, and their account.

        Raises:
            RecordErrors: bad rows stop the work, and there are as many as are gathered.
        """
        left = [0] * len(self.task.transforms)
        bad: list[Bad] = []
        n_positions, rows = 0, []
        for position, row in self._taken(start):
            n_positions += 1
            try:
                found = row if isinstance(row, RecordError) else self._transformed(row, left)
            except RecordError as error:
                found = error
            if isinstance(found, RecordError):
                bad.append(Bad(position, found.where, found.problem))
            elif found is not None:
                rows.append((position, found))
        with at_time(self.moment):
            encoded = self._encoded(rows, bad)
        bad.sort(key=lambda one: one.position)
        self._tell(bad)
        good = {position for position, _ in encoded}
        account = Account(
            n_positions=n_positions,
            left=left,
            bad=bad,
            sha256=fingerprint(row for position, row in rows if position in good),
        )
        return [row for _, row in encoded], [position for position, _ in encoded], account

    def _taken(self, start: int) -> Iterator[tuple[int, Row | RecordError]]:
        """Yield rows from a position on, going on from the stretch before where that is next."""
        if start != self._next:
            self._rows, self._next = self.source.rows(start), start
        for _ in range(AT_ONCE):
            row = next(self._rows, None)
            if row is None:
                return
            self._next += 1
            yield self._next - 1, row

    def _transformed(self, row: Row, left: list[int]) -> Row | None:
        return transformed_row(self.task.transforms, row, left)

    def _encoded(
        self, rows: Sequence[tuple[int, Row]], bad: list[Bad]
    ) -> list[tuple[int, Encoded]]:
        """Return each text of each row with the row's position; unfit rows are added to the bad."""
        encoded: list[tuple[int, Encoded]] = []
        found = each_encoded(self.task, [row for _, row in rows], self.tokenizer)
        for (position, _), (_, made) in zip(rows, found, strict=True):
            if isinstance(made, RecordError):
                bad.append(Bad(position, made.where, made.problem))
            else:
                encoded += [(position, row) for row in made]
        return encoded

    def _tell(self, bad: Sequence[Bad]) -> None:
        self._found = self._found or BadRows(self.policy)
        for one in bad:
            self._found(one.error)


def in_memory(preparer: Preparer) -> tuple[HeldRows, Account]:
    """Return the rows of a source that is in memory, and its account.

    Raises:
        RecordError: a row is bad, or nothing is left.
        RecordErrors: several are.
    """
    rows: list[Encoded] = []
    positions: list[int] = []
    parts: list[Account] = []
    for start in range(0, len(preparer.source), AT_ONCE):
        more, places, account = preparer.stretch(start)
        rows += more
        positions += places
        parts.append(account)
    account = Account.of_parts(parts)
    check(account, preparer, n_rows=len(rows))
    return HeldRows(rows, positions), account


def into_folder(
    preparer: Preparer, *, processes: int, bar: contextlib.AbstractContextManager[Tell | None]
) -> tuple[list[Path], Account]:
    """Write the rows of a source into its preparer's folder; return the files and the account.

    Args:
        preparer: what prepares them.
        processes: how many work at once.
        bar: gives a function that is told how many rows of how many are done, or None.
    Raises:
        RecordError: a row is bad, or nothing is left.
        RecordErrors: several are.
        LmkitError: the disk refuses.
    """
    folder = preparer.folder
    assert folder is not None
    n_rows = len(preparer.source)
    starts = list(range(0, n_rows, AT_ONCE))
    if not starts:
        raise nothing_in(preparer.source.name, None)
    lib = datasets()
    with bar as tell, _watching(folder, n_rows, tell), _silent(), _interrupted():
        found = lib.Dataset.from_dict({"start": starts}).map(
            preparer,
            batched=True,
            batch_size=1,
            remove_columns=["start"],
            features=lib.Features.from_arrow_schema(schema()),
            num_proc=processes if min(processes, len(starts)) > 1 else None,
            cache_file_name=str(folder / ROWS_FILE),
            load_from_cache_file=False,
            new_fingerprint=hashlib.sha256(str(folder).encode()).hexdigest()[:32],
        )
    parts = sorted(folder.glob("part-*.json"))
    account = Account.of_parts([_read(part) for part in parts])
    for part in parts:
        part.unlink()
    check(account, preparer, n_rows=len(found))
    return sorted(folder.glob("rows*.arrow")), account


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Let Ctrl-C be what stops the work: `datasets` raises what follows from it in its stead."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is None:
            raise
        raise KeyboardInterrupt from error


def check(account: Account, preparer: Preparer, *, n_rows: int) -> None:
    """Refuse bad rows if they stop the work, and a source of which nothing is left.

    Raises:
        RecordError: as said.
        RecordErrors: as said, for several bad rows.
    """
    stopped = BadRows(preparer.policy)
    for bad in account.bad:
        stopped(bad.error)
    stopped.end()
    if n_rows:
        return
    name = preparer.source.name
    for transform, n_left in zip(preparer.task.transforms, account.left, strict=True):
        if not n_left and len(account.good):
            raise RecordError(name, f"{transform} leaves out every record")
    raise nothing_in(name, account.bad[0].error if account.bad else None)


def _read(part: Path) -> Account:
    return account_of(json.loads(part.read_text("utf-8")))


def account_of(data: dict[str, Any]) -> Account:
    """Return the account that `attrs.asdict` made a dictionary of."""
    return Account(**{**data, "bad": [Bad(**bad) for bad in data["bad"]]})


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep `datasets` from showing bars of its own."""
    lib = datasets()
    shown = lib.utils.are_progress_bars_disabled()
    lib.disable_progress_bars()
    try:
        yield
    except OSError as error:
        if isinstance(error, LmkitError):
            raise
        raise LmkitError(f"prepared rows cannot be written: {error.strerror or error}") from error
    finally:
        if not shown:
            lib.enable_progress_bars()


@contextlib.contextmanager
def _watching(folder: Path, n_rows: int, tell: Tell | None) -> Iterator[None]:
    """Count what is done, in whichever process, by the accounts that appear in the folder."""
    if tell is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            tell(min(n_rows, AT_ONCE * sum(1 for _ in folder.glob("part-*.json"))), n_rows)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
