"""Read: data files become records that remember where they came from.

A record is a mapping from column to value. Those read here are `Row`s: dictionaries with a `where`
such as `train.jsonl:17`, which every later error about the record quotes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmkit.errors import MissingExtra, RecordError, RecordErrors, UnknownName

csv.field_size_limit(1 << 30)  # Python's own limit of 128 KiB is below a long document
MOST_ERRORS = 10  # bad rows shown together before reading stops
FIRST_SHOWN = 3  # bad rows that a warning names
PARQUET_ROWS = 1024  # of a Parquet file, in memory at once
STOP, SKIP = POLICIES = ("stop", "skip")  # what bad rows may do

_SURROGATE = re.compile("[\ud800-\udfff]")

Data = str | Path | Iterable[Mapping[str, Any]]
OnBadRow = Callable[[RecordError], None]


class Row(dict[str, Any]):
    """A record with its place.

    Attributes:
        where: `file:line`, or `rows:index` for data that was never a file.
    """

    __slots__ = ("where",)

    def __init__(self, columns: Mapping[str, Any], where: str) -> None:
        super().__init__(columns)
        self.where = where


def where_of(record: Mapping[str, Any], index: int) -> str:
    """Return a record's place, or its index where it has none."""
    return record.where if isinstance(record, Row) else f"record {index}"


def read(
    data: Data,
    *,
    whole: bool = False,
    most_errors: int = MOST_ERRORS,
    on_bad_row: OnBadRow | None = None,
) -> list[Row]:
    """Return all records of a data source.

    Args:
        data: a .jsonl, .json, .csv, .tsv, .parquet or .txt file, a `datasets` folder or hub name,
            `-` for JSON lines on standard input, or records in memory.
        whole: whether a .txt file is one record, as it stands; otherwise each line is one.
        most_errors: how many bad rows to gather before giving up.
        on_bad_row: what is told of each row that cannot be read, which is then left out. Without it,
            bad rows are gathered and raised together.
    Raises:
        RecordError: the source is missing, empty, or of no known kind; or every row is bad.
        RecordErrors: rows that cannot be read, each with its place.
    """
    bad = on_bad_row or BadRows(most=most_errors)
    first: list[RecordError] = []

    def tell(error: RecordError) -> None:
        first[:] = first or [error]
        bad(error)

    rows = list(good_rows(iterate(data, whole=whole), tell))
    if isinstance(bad, BadRows):
        bad.end()
    if not rows:
        raise nothing_in(data, first[0] if first else None)
    return rows


def iterate(data: Data, *, whole: bool = False, start: int = 0) -> Iterator[Row | RecordError]:
    """Yield the rows of a source one after another, and for each that cannot be read its error.

    Only a .json file is held in memory whole; a .txt file is where `whole` asks for that.

    Args:
        data: as for `read`.
        whole: as for `read`.
        start: leave out so many of the first, without reading what is in them.
    Raises:
        RecordError: the source is missing, of no known kind, or damaged as a whole.
    """
    if not isinstance(data, (str, Path)):
        records = itertools.islice(data, start, None)
        return (_row(record, f"rows:{index}") for index, record in enumerate(records, start))
    if str(data) == "-":
        return _json_lines(_standard_input(), "standard input", start)
    path = Path(data)
    if path.is_dir():
        return _saved_rows(_datasets_folder(path), str(path), start)
    if path.is_file():
        return _reader_of(path, whole).rows(path, start)
    if path.suffix.lower() in _READERS or path.is_absolute() or str(data).startswith("."):
        raise RecordError(str(data), "there is no such file")
    return _saved_rows(_hub(str(data)), str(data), start)


def count(data: str | Path, *, whole: bool = False) -> int:
    """Return how many rows `iterate` yields of a source that is no stream, bad ones too."""
    path = Path(data)
    if path.is_dir():
        return len(_datasets_folder(path))
    if path.is_file():
        return _reader_of(path, whole).count(path)
    return len(_hub(str(data)))


def good_rows(results: Iterable[Row | RecordError], on_bad_row: OnBadRow) -> Iterator[Row]:
    """Yield the rows, and tell of the errors among them."""
    for result in results:
        if isinstance(result, RecordError):
            on_bad_row(result)
        else:
            yield result


def gather(
    results: Iterable[Row | RecordError],
    *,
    most_errors: int = MOST_ERRORS,
    on_bad_row: OnBadRow | None = None,
) -> list[Row]:
    """Return the rows, and raise all their errors together unless there is someone to be told."""
    if on_bad_row is not None:
        return list(good_rows(results, on_bad_row))
    bad = BadRows(most=most_errors)
    rows = list(good_rows(results, bad))
    bad.end()
    return rows


class BadRows:
    """What becomes of rows that cannot be used: they stop the work, or are listed and left out.

    Args:
        policy: `stop` or `skip`.
        most: how many are gathered before the work stops.
    Raises:
        UnknownName: there is no such policy.

    Attributes:
        errors: what was found so far, in order.
    """

    def __init__(self, policy: str = STOP, *, most: int = MOST_ERRORS) -> None:
        if policy not in POLICIES:
            raise UnknownName("way with bad rows", policy, POLICIES)
        self.skips = policy == SKIP
        self.errors: list[RecordError] = []
        self._most = most

    def __call__(self, error: RecordError) -> None:
        """Take one.

        Raises:
            RecordErrors: the work stops, and this is as much as is gathered.
        """
        self.errors.append(error)
        if not self.skips and len(self.errors) >= self._most:
            raise RecordErrors(self.errors, more=True)

    def end(self) -> None:
        """Raise what was gathered, if the work is to stop."""
        if self.skips or not self.errors:
            return
        raise self.errors[0] if len(self.errors) == 1 else RecordErrors(self.errors)


class SkippedRows(UserWarning):
    """Rows that could not be used were left out."""


def warn_of_skipped(name: str, errors: Sequence[RecordError], *, listed: str = "") -> None:
    """Say how many rows were left out, and which were the first; nothing if there were none.

    Args:
        name: what to call the data.
        errors: the rows' errors.
        listed: where they are all listed.
    """
    if not errors:
        return
    rows = "1 bad row is" if len(errors) == 1 else f"{len(errors)} bad rows are"
    lines = [f"{name}: {rows} left out", *(f"  {error}" for error in errors[:FIRST_SHOWN])]
    if len(errors) > FIRST_SHOWN:
        lines.append(f"  and {len(errors) - FIRST_SHOWN} more")
    if listed:
        lines.append(f"  all are listed in {listed}")
    warnings.warn("\n".join(lines), SkippedRows, stacklevel=3)


def nothing_in(data: Data, bad: RecordError | None) -> RecordError:
    """Return the error for a source of which no row can be used.

    Args:
        data: the source.
        bad: the first row that was left out, if there was one.
    """
    if bad is None:
        return RecordError(name_of(data), "there are no records in it")
    return RecordError(name_of(data), f"every row of it is bad; the first: {bad}")


def name_of(data: Data) -> str:
    """Return how to call a data source in a message."""
    if isinstance(data, (str, Path)):
        return "standard input" if str(data) == "-" else str(data)
    return f"{type(data).__name__} in memory"


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 of the records' content and order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _row(record: Any, where: str) -> Row | RecordError:
    if isinstance(record, RecordError):  # a bad row of what was read before
        return record
    if isinstance(record, Row):
        where = record.where
    if not isinstance(record, Mapping):
        return RecordError(
            where, f"a record is a mapping from column to value, not {_kind(record)}"
        )
    for column, content in record.items():
        if _has_half_character(content):
            return RecordError(
                where,
                f"column '{column}' has half of a surrogate pair, such as \\ud83d without its "
                "partner",
            )
    return Row(record, where)


def _has_half_character(part: Any) -> bool:
    """Say whether a text in a record is cut inside a character, so that no tokenizer takes it."""
    if isinstance(part, str):
        return _SURROGATE.search(part) is not None
    if isinstance(part, Mapping):
        return any(map(_has_half_character, part.values()))
    return isinstance(part, (list, tuple)) and any(map(_has_half_character, part))


def _kind(found: Any) -> str:
    return "null" if found is None else f"a {type(found).__name__}"


def _text_of(path: Path) -> str:
    """Return a whole file's text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _withheld(path, error) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise RecordError(
            f"{path}:{line}", _not_utf_8(raw[error.start], f"byte {column} of the line")
        ) from error


def _lines(path: Path) -> Iterator[str]:
    """Yield a file's lines; a byte that is not UTF-8 comes out as half of a surrogate pair."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from file
    except OSError as error:
        raise _withheld(path, error) from error


def _standard_input() -> Iterator[str]:
    """Yield the lines of standard input as `_lines` does, whatever the locale."""
    file = io.TextIOWrapper(
        sys.stdin.buffer, encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    try:
        yield from file
    finally:
        file.detach()  # else it would be closed


def _withheld(path: Path, error: OSError) -> RecordError:
    return RecordError(str(path), f"cannot be read: {error.strerror}")


def _undecoded(line: str, where: str) -> RecordError | None:
    """Return the error for a line that is not UTF-8."""
    found = None if line.isascii() else _SURROGATE.search(line)
    if found is None:
        return None
    problem = _not_utf_8(ord(found.group()) - 0xDC00, f"column {found.start() + 1}")
    return RecordError(where, problem)


def _not_utf_8(byte: int, place: str) -> str:
    return (
        f"byte 0x{byte:02x} is not UTF-8 ({place}); convert the file, for example with "
        f"'iconv -f CP949 -t UTF-8'"
    )


def _jsonl_file(path: Path, start: int) -> Iterator[Row | RecordError]:
    return _json_lines(_lines(path), str(path), start)


def _filled(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    return ((number, line) for number, line in enumerate(lines, start=1) if not line.isspace())


def _json_lines(lines: Iterable[str], name: str, start: int) -> Iterator[Row | RecordError]:
    for number, line in itertools.islice(_filled(lines), start, None):
        where = f"{name}:{number}"
        if (error := _undecoded(line, where)) is not None:
            yield error
            continue
        try:
            record = json.loads(line.rstrip())
        except (ValueError, RecursionError) as problem:
            yield RecordError(where, f"not valid JSON: {_json_problem(problem)}")
        else:
            yield _row(record, where)


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _filled(_lines(path)))


def _json_file(path: Path, start: int) -> Iterator[Row | RecordError]:
    records = itertools.islice(_json_records(path), start, None)
    return (_row(record, f"{path}[{index}]") for index, record in enumerate(records, start))


def _json_records(path: Path) -> list[Any]:
    text = _text_of(path)
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RecordError(f"{path}{line}", f"not valid JSON: {_json_problem(error)}") from error
    if isinstance(records, dict) and isinstance(records.get("data"), list):
        records = records["data"]
    if not isinstance(records, list):
        raise RecordError(str(path), f"holds {_kind(records)}, expected a list of records")
    return records


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)  # too deep, or a number with thousands of digits


class _Table:
    """The cells of a CSV file, row by row, with where each stands and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._undecoded: RecordError | None = None
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        # Without `strict`, a quote that is never closed swallows the rest of the file in silence.
        self._reader = csv.reader(self._watched(), delimiter=delimiter, strict=True)
        self.columns: list[str] = self._header()
        if self._undecoded is not None:
            raise self._undecoded
        twice = next((name for name in self.columns if self.columns.count(name) > 1), None)
        if twice is not None:
            raise RecordError(f"{path}:1", f"has two columns named '{twice}'")

    def rows(self) -> Iterator[list[str] | RecordError]:
        """Yield the cells of each row that is not blank.

        Raises:
            RecordError: a quote is never closed, so that all behind it is one cell.
        """
        while True:
            first = self._reader.line_num + 1
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise RecordError(
                        f"{self._path}:{first}", f"not valid CSV: {error}; a quote is never closed"
                    ) from error
                yield RecordError(self.where, f"not valid CSV: {error}")
                continue
            undecoded, self._undecoded = self._undecoded, None
            if undecoded is not None:
                yield undecoded
            elif cells:
                yield cells

    def row(self, cells: list[str]) -> Row | RecordError:
        """Return cells under the columns' names."""
        if len(cells) > len(self.columns):
            return RecordError(self.where, f"has more cells than the {len(self.columns)} columns")
        if len(cells) < len(self.columns):
            name = self.columns[len(cells)]
            return RecordError(
                self.where, f"has fewer cells than there are columns: '{name}' has none"
            )
        return Row(dict(zip(self.columns, cells, strict=True)), self.where)

    @property
    def where(self) -> str:
        """The line on which the last row ended."""
        return f"{self._path}:{self._reader.line_num}"

    def _header(self) -> list[str]:
        try:
            return next(filter(None, self._reader), [])
        except csv.Error as error:
            raise RecordError(self.where, f"not valid CSV: {error}") from error

    def _watched(self) -> Iterator[str]:
        for number, line in enumerate(_lines(self._path), start=1):
            self._undecoded = self._undecoded or _undecoded(line, f"{self._path}:{number}")
            yield line


def _csv_file(path: Path, start: int) -> Iterator[Row | RecordError]:
    table = _Table(path)
    for found in itertools.islice(table.rows(), start, None):
        yield found if isinstance(found, RecordError) else table.row(found)


def _count_csv(path: Path) -> int:
    return sum(1 for _ in _Table(path).rows())


def _text_file(path: Path, start: int) -> Iterator[Row | RecordError]:
    for number, line in itertools.islice(_filled(_lines(path)), start, None):
        where = f"{path}:{number}"
        yield _undecoded(line, where) or Row({"text": line.rstrip("\r\n")}, where)


def _whole_text(path: Path, start: int) -> Iterator[Row]:
    if not start and (text := _text_of(path)):
        yield Row({"text": text}, str(path))


def _parquet_file(path: Path, start: int) -> Iterator[Row | RecordError]:
    """Yield rows; of those that are left out, whole row groups are not read."""
    table, group = _parquet(path), 0
    while group < table.num_row_groups and start >= table.metadata.row_group(group).num_rows:
        start -= table.metadata.row_group(group).num_rows
        group += 1
    index = sum(table.metadata.row_group(before).num_rows for before in range(group))
    groups = list(range(group, table.num_row_groups))
    try:
        for batch in table.iter_batches(PARQUET_ROWS, row_groups=groups) if groups else ():
            for record in batch.to_pylist():
                if start:
                    start -= 1
                else:
                    yield Row(record, f"{path}[{index}]")
                index += 1
    except Exception as error:  # pyarrow raises many kinds
        raise RecordError(str(path), f"not a readable Parquet file: {error}") from error


def _count_parquet(path: Path) -> int:
    return int(_parquet(path).metadata.num_rows)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("reading Parquet", "train", "pyarrow") from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises many kinds
        raise RecordError(str(path), f"not a readable Parquet file: {error}") from error


def _datasets_folder(path: Path) -> Any:
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises many kinds
        raise RecordError(str(path), f"is not a folder that datasets saved: {error}") from error
    return _split_of(found, str(path))


def _hub(name: str) -> Any:
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # network, hub and format errors share no base
        raise RecordError(
            name, f"is neither a file here nor a dataset that can be fetched: {error}"
        ) from error
    return _split_of(found, name)


def _split_of(found: Any, name: str) -> Any:
    if not isinstance(found, Mapping):
        return found
    if "train" not in found and len(found) > 1:
        raise RecordError(name, f"has the splits {', '.join(found)} and none named 'train'")
    return found.get("train", next(iter(found.values())))


def _saved_rows(found: Any, name: str, start: int) -> Iterator[Row | RecordError]:
    if start and start >= len(found):
        return iter(())
    records = found.skip(start) if start else found
    return (Row(record, f"{name}[{index}]") for index, record in enumerate(records, start))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("reading this data", "train", "datasets") from error
    return datasets


class _Reader(NamedTuple):
    rows: Callable[[Path, int], Iterator[Row | RecordError]]
    count: Callable[[Path], int]


def _reader_of(path: Path, whole: bool) -> _Reader:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(sorted(_READERS))
        raise RecordError(str(path), f"'{path.suffix}' is no known kind of data; known: {kinds}")
    return _WHOLE if whole and reader is _TEXT else reader


_JSON_LINES = _Reader(_jsonl_file, _count_lines)
_TEXT = _Reader(_text_file, _count_lines)
_WHOLE = _Reader(_whole_text, lambda path: 1)
_CSV = _Reader(_csv_file, _count_csv)
_READERS = {
    ".jsonl": _JSON_LINES,
    ".ndjson": _JSON_LINES,
    ".json": _Reader(_json_file, lambda path: len(_json_records(path))),
    ".csv": _CSV,
    ".tsv": _CSV,
    ".txt": _TEXT,
    ".parquet": _Reader(_parquet_file, _count_parquet),
}
