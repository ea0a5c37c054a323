"""The cache of prepared rows: an entry is a folder that is there whole or not at all.

It lies in `$LMKIT_CACHE`, else in `$XDG_CACHE_HOME/lmkit/prepared`, else in
`~/.cache/lmkit/prepared`. An entry's name is the sha256 of all that its rows depend on, so it is
never out of date; to be rid of entries, delete them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import LmkitError, RecordError
from lmkit.files import write_atomically
from lmkit.records import STOP
from lmkit.saving.jsonform import dump
from lmkit.sources import Source
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.preparing.bars import bar
from lmkit.train.preparing.cachekey import SCHEMA, key_of, key_parts
from lmkit.train.preparing.codeprint import Unknowable
from lmkit.train.preparing.prepared import ArrowRows, HeldRows
from lmkit.train.preparing.preparer import (
    Account,
    Preparer,
    account_of,
    check,
    in_memory,
    into_folder,
)

CACHE = "LMKIT_CACHE"
ENTRY_FILE = "prepared.json"
PART = ".part-"
TRIES = 3  # to open an entry, which another process may remove as damaged meanwhile
State = tuple[int, int]  # a file's size and when it was written to, which tell a change
STALE_S = 24 * 3600  # after which what a killed process left behind is removed


@attrs.frozen(kw_only=True)
class Preparation:
    """How rows are prepared.

    Attributes:
        cache: whether rows of files are kept for the next time, or the folder to keep them in.
        on_bad_row: `stop` or `skip`.
        processes: how many prepare the rows of a file at once.
    """

    cache: bool | str | Path = True
    on_bad_row: str = STOP
    processes: int = 1


@attrs.frozen(kw_only=True)
class Prepared:
    """A source's rows, prepared.

    Attributes:
        rows: ids and labels, in the source's order.
        account: what came of the source's rows.
        explained: whether they were in the cache, and if not why.
    """

    rows: ArrowRows | HeldRows
    account: Account
    explained: str


def prepare(
    task: Task, source: Source, tokenizer: Tokenizer, moment: str, how: Preparation
) -> Prepared:
    """Return a source's rows as a task wants them, from the cache if they are in it.

    Args:
        task: as it is fitted to the model.
        source: the data.
        tokenizer: the model's.
        moment: the date for templates that print one.
        how: whether to look into the cache, and the like.
    Raises:
        RecordError: a row is bad and `how` says to stop, or nothing is left.
        RecordErrors: several are; up to ten are gathered.
        LmkitError: the cache cannot be written.
    """
    preparer = Preparer(task, source, tokenizer, how.on_bad_row, moment)
    before = _state(source)
    if source.in_memory:
        rows, account = in_memory(preparer)
        return Prepared(
            rows=rows, account=account, explained=f"{source.name}: not cached, being in memory"
        )
    if how.cache is False:
        return _for_once(preparer, how, before, f"{source.name}: not cached, as was asked")
    try:
        parts = key_parts(task, source, tokenizer, moment)
    except Unknowable as error:
        return _for_once(preparer, how, before, f"{source.name}: not cached: {error}")
    return _Cache(root_of(how.cache)).rows(preparer, parts, how, before)


def root_of(cache: bool | str | Path) -> Path:
    """Return the folder that entries lie in."""
    if not isinstance(cache, bool):
        return Path(cache)
    if chosen := os.environ.get(CACHE):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lmkit" / "prepared"


def _for_once(
    preparer: Preparer, how: Preparation, before: State | None, explained: str
) -> Prepared:
    """Prepare rows into a folder that goes when they do."""
    folder = Path(tempfile.mkdtemp(prefix="lmkit-prepared-"))
    try:
        files, account = _written(preparer, folder, how, before)
        rows = ArrowRows(files, preparer.task.family)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return Prepared(rows=rows, account=account, explained=explained)


def _written(
    preparer: Preparer, folder: Path, how: Preparation, before: State | None
) -> tuple[list[Path], Account]:
    """Write rows; refuse a file that is not as it was before its content was looked at."""
    preparer = attrs.evolve(preparer, folder=folder)
    name = preparer.source.name
    found = into_folder(preparer, processes=how.processes, bar=bar(name))
    if _state(preparer.source) != before:
        raise RecordError(name, "has changed while it was read; try again")
    return found


def _state(source: Source) -> State | None:
    """Return what tells that a file was written to."""
    path = Path(source.path or "")
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


class _Cache:
    """Entries in a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def rows(
        self,
        preparer: Preparer,
        parts: Mapping[str, str],
        how: Preparation,
        before: State | None,
    ) -> Prepared:
        """Return an entry's rows, which are prepared now if there is no such entry."""
        name, place = preparer.source.name, self._root / key_of(parts)
        explained = ""
        for _ in range(TRIES):
            found = self._open(place, preparer)
            if found is not None:
                rows, entry = found
                account = account_of(entry["account"])
                check(account, preparer, n_rows=len(rows))
                explained = explained or f"hit, prepared {entry['written']}"
                return Prepared(rows=rows, account=account, explained=f"{name}: {explained}")
            explained = explained or f"miss: {self._why(preparer, parts)}"
            shutil.rmtree(place, ignore_errors=True)  # damaged, if it is there
            self._write(place, preparer, parts, how, before)
        raise LmkitError(f"'{place}' does not stay as it was written; name another {CACHE}")

    def _open(self, place: Path, preparer: Preparer) -> tuple[ArrowRows, dict[str, Any]] | None:
        """Return an entry's rows and what it says of them; None where it is not there whole."""
        entry = _read(place)
        if entry is None:
            return None
        files = [place / name for name in entry["files"]]
        try:
            if [file.stat().st_size for file in files] != list(entry["files"].values()):
                return None
            rows = ArrowRows(files, preparer.task.family)
        except (OSError, ValueError):
            return None
        return rows, {**entry, "account": _placed(entry["account"], preparer.source.name)}

    def _write(
        self,
        place: Path,
        preparer: Preparer,
        parts: Mapping[str, str],
        how: Preparation,
        before: State | None,
    ) -> None:
        with self._new(place) as folder:
            files, account = _written(preparer, folder, how, before)
            source = preparer.source
            entry = {
                "schema": SCHEMA,
                "task": preparer.task.name,
                "data": source.name,
                "path": _path(source),
                "written": datetime.now().isoformat(sep=" ", timespec="seconds"),
                "parts": dict(parts),
                "files": {file.name: file.stat().st_size for file in files},
                "account": _unplaced(attrs.asdict(account), source.name),
            }
            write_atomically(folder / ENTRY_FILE, dump(entry))

    @contextlib.contextmanager
    def _new(self, place: Path) -> Iterator[Path]:
        """Give a folder to fill, and rename it into place unless another process has done so."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=PART, dir=self._root))
        except OSError as error:
            raise LmkitError(
                f"'{self._root}' cannot be written: {error.strerror}; name another folder with "
                f"{CACHE}, or prepare without a cache (cache=False, --no-cache)"
            ) from error
        self._sweep()
        try:
            yield part
            with contextlib.suppress(OSError):  # two at once prepare the same rows: either will do
                os.replace(part, place)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what processes that were killed have left."""
        for part in self._root.glob(f"{PART}*"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > STALE_S:
                    shutil.rmtree(part, ignore_errors=True)

    def _why(self, preparer: Preparer, parts: Mapping[str, str]) -> str:
        """Say which parts are others than in the most similar entry."""
        name, path = preparer.task.name, _path(preparer.source)
        entries = filter(None, map(_read, self._root.glob("*")))
        near = [one for one in entries if one["path"] == path or one["task"] == name]
        if not near:
            return f"nothing was prepared before from it, nor for task '{name}'"

        def likeness(one: dict[str, Any]) -> tuple[int, bool, str]:
            same = sum(one["parts"].get(part) == text for part, text in parts.items())
            return same, one["path"] == path, one["written"]

        nearest = max(near, key=likeness)
        was = nearest["parts"]
        changed = [part for part in parts if was.get(part) != parts[part]]
        if not changed:
            return f"the entry of {nearest['written']} is damaged"
        told = [
            f"the {part} ({_short(was.get(part, '?'))} -> {_short(parts[part])})"
            for part in changed
        ]
        same = [part for part in parts if part not in changed]
        rest = f"; the same: {', '.join(same)}" if same else ""
        return f"changed since {nearest['written']}: {', '.join(told)}{rest}"


def _read(place: Path) -> dict[str, Any] | None:
    """Return what an entry says of itself; None where it is none, or was cut short."""
    try:
        entry = json.loads((place / ENTRY_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(entry, dict) and entry.get("schema") == SCHEMA
    return entry if whole else None


def _path(source: Source) -> str:
    """Return a file's whole path, or a hub name."""
    path = Path(source.path or "")
    return str(path.resolve()) if path.exists() else str(source.path)


def _unplaced(account: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an account in which places do not name the file, which may be another's copy."""
    bad = [{**one, "where": one["where"].removeprefix(name)} for one in account["bad"]]
    return {**account, "bad": bad}


def _placed(account: dict[str, Any], name: str) -> dict[str, Any]:
    return {**account, "bad": [{**one, "where": name + one["where"]} for one in account["bad"]]}


def _short(text: str) -> str:
    """Return a part's text with its sha256 in eight characters."""
    words = (word[:8] if len(word) == 64 else word for word in text.split(" "))
    return " ".join(words)
